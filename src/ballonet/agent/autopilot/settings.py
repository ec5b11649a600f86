"""What an operator decides: `[autopilot]` of the configuration, and its tables for machines.

Units: bytes left to the guest (logical size).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from ballonet.agent.keys import meta
from ballonet.autopilot.settings import WEIGHT_MOST, Mode, Settings, VmPolicy
from ballonet.units import parse_bytes
from ballonet.vms.addresses import find_matching
from ballonet.vms.sighting import Sighting

__all__ = ["AutopilotSettings", "VmSettings", "law_settings"]

#: What a size may be instead of one.
_AUTO: Final = "auto"
_SIZE_MOST: Final = 1 << 62
_SIZE: Final = f"{_AUTO}, or a size such as 512M or 2GiB"


class VmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[autopilot.vm."PATTERN"]`; of several whose pattern matches the first one counts."""

    min: Annotated[
        str, meta("it is asked to keep no less; auto: a quarter of its memory", _SIZE)
    ] = _AUTO
    weight: Annotated[
        int,
        meta(
            "its part where memory is short, beside those of others",
            f"a whole number, 1 to {WEIGHT_MOST}",
            ge=1,
            le=WEIGHT_MOST,
        ),
    ] = 1000
    exclude: Annotated[bool, meta("it is left alone", "true or false")] = False

    def __post_init__(self) -> None:
        """Raises: ValueError, which msgspec turns into its own."""
        _size(self.min)

    @property
    def policy(self) -> VmPolicy:
        """As the law takes it."""
        return VmPolicy(_size(self.min), self.weight, self.exclude)


class AutopilotSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[autopilot]`."""

    enable: Annotated[
        bool,
        meta("carry out what is decided; else it is only shown, and written down", "true or false"),
    ] = False
    mode: Annotated[
        Literal["return", "hold"],
        meta(
            "memory that no guest needs is lent to all of them, or stays with the host",
            '"return" or "hold"',
        ),
    ] = "return"
    reserve: Annotated[
        str,
        meta("kept available for the host; auto: a 50th of its memory, 512 MiB at least", _SIZE),
    ] = _AUTO
    budget: Annotated[
        str, meta("what all machines may keep together; auto: what the host can spare", _SIZE)
    ] = _AUTO
    record_rounds: Annotated[
        bool,
        meta("write down every look too, for `ballonet autopilot replay`", "true or false"),
    ] = False
    vm: dict[Annotated[str, Meta(min_length=1)], VmSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: ValueError, which msgspec turns into its own."""
        for size in (self.reserve, self.budget):
            _size(size)


def law_settings(
    settings: AutopilotSettings,
    machines: Mapping[str, Sighting],
    paused: Collection[str],
    *,
    is_dry_run: bool,
) -> Settings:
    """What the law is to follow for these machines, by the law's name of each.

    `paused`: names of those that are left alone whatever the configuration says.
    """
    policies = _policies(settings.vm, machines)
    policies |= {vm: VmPolicy(is_excluded=True) for vm in paused}
    return Settings(
        Mode(settings.mode),
        _size(settings.reserve),
        _size(settings.budget),
        policies,
        is_dry_run=is_dry_run,
    )


def _policies(
    tables: Mapping[str, VmSettings], machines: Mapping[str, Sighting]
) -> dict[str, VmPolicy]:
    names = {one: vm for vm, one in machines.items()}
    policies: dict[str, VmPolicy] = {}
    for pattern, table in tables.items():
        for one in find_matching(list(names), pattern):
            policies.setdefault(names[one], table.policy)
    return policies


def _size(text: str) -> int | None:
    """Bytes; None: auto. Raises: SettingsError, which is a ValueError."""
    return None if text == _AUTO else parse_bytes(text, key="size", limits=(0, _SIZE_MOST))

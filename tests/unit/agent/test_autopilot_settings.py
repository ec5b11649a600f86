"""`[autopilot]` of the configuration, and what becomes of it."""

from __future__ import annotations

import pytest

from ballonet.agent.autopilot.settings import law_settings
from ballonet.agent.configuration import parse_configuration, show_configuration
from ballonet.autopilot.settings import Mode, VmPolicy
from ballonet.errors import SettingsError
from ballonet.vms.observation import MachineId
from ballonet.vms.sighting import Sighting

MIB = 1 << 20
TEXT = """\
[autopilot]
enable = true
mode = "hold"
reserve = "2GiB"
[autopilot.vm."db*"]
min = "512M"
weight = 3000
[autopilot.vm."qemu:*"]
exclude = true
"""


def machines(*names: str) -> dict[str, Sighting]:
    return {one: Sighting(_id(one), one) for one in names}


def _id(text: str) -> MachineId:
    kind, _, name = text.partition(":")
    return MachineId(kind, name)


def test_the_first_pattern_that_matches_decides() -> None:
    settings = parse_configuration(TEXT, "x").autopilot
    law = law_settings(
        settings, machines("qemu:db1", "qemu:web", "libvirt:web"), ["libvirt:web"], is_dry_run=False
    )
    assert (law.mode, law.reserve_bytes, law.budget_bytes) == (Mode.HOLD, 2048 * MIB, None)
    assert law.policy_of("qemu:db1") == VmPolicy(512 * MIB, 3000)
    assert law.policy_of("qemu:web").is_excluded
    assert law.policy_of("libvirt:web").is_excluded
    assert law.policy_of("qemu:new") == VmPolicy()


def test_what_is_shown_is_what_was_read() -> None:
    settings = parse_configuration(TEXT, "x")
    assert parse_configuration("\n".join(show_configuration(settings)), "y") == settings


@pytest.mark.parametrize(
    ("line", "number", "text"),
    [
        ('mode = "both"', 2, '"return" or "hold"'),
        ('reserve = "2"', 2, "auto, or a size"),
        ("enable = 1", 2, "true or false"),
        ("vm = 3", 2, "tables"),
        ('[autopilot.vm."a"]\nmni = "1M"', 3, "min (nearest)"),
        ('[autopilot.vm."a"]\nweight = 0', 3, "1 to 1000000"),
        ('[autopilot.vm."a"]\nmin = "x"', 3, "auto, or a size"),
        ("[autopilot.vm]\na = 1", 3, "a table of settings"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(line: str, number: int, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_configuration(f"[autopilot]\n{line}\n", "file")
    assert str(refused.value).startswith(f"file:{number}:")
    assert text in str(refused.value)

"""What a device must still know after its process was replaced while its guest went on.

Without the target the guest would be told to take everything back; without the id of the last hint
round an old one could be used again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from ballonet.device.balloon import Balloon
from ballonet.errors import SettingsError
from ballonet.virtio.hint_ids import CMD_ID_MAX, CMD_ID_MIN

__all__ = ["DeviceState", "restore_state", "state_of"]

VERSION: Final = 1
_U32: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Sizes in balloon pages."""

    target_pages: int = 0
    actual_pages: int = 0
    poison_val: int | None = None  #: None: not known
    cmd_id: int = CMD_ID_MIN  #: of the last hint round
    poll_interval_s: int = 0

    def as_fields(self) -> dict[str, Any]:
        """What is written down."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_fields(cls, fields: object) -> Self:
        """Read what was written down. Raises: SettingsError."""
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            raise SettingsError("state file", str(fields)[:80], f"version {VERSION}")
        values = {name: fields.get(name) for name in cls.__dataclass_fields__}
        limits = dict.fromkeys(values, (0, _U32 - 1)) | {"cmd_id": (CMD_ID_MIN, CMD_ID_MAX)}
        for name, value in values.items():
            if name == "poison_val" and value is None:
                continue
            least, most = limits[name]
            if type(value) is not int or not least <= value <= most:  # True is an int, too
                raise SettingsError(f"state file: {name}", str(value), f"{least} to {most}")
        return cls(**values)  # type: ignore[arg-type]


def state_of(balloon: Balloon) -> DeviceState:
    """What a device in another process needs to go on with the same guest."""
    poison = balloon.config.poison
    return DeviceState(
        balloon.target_pages,
        balloon.config.kept_actual_pages,
        poison.value if poison.is_known else None,
        balloon.hint_round.cmd_id,
        balloon.statistics.poll_interval_s,
    )


def restore_state(balloon: Balloon, state: DeviceState) -> None:
    """Go on where another device stopped; before a front-end comes."""
    balloon.config.num_pages = state.target_pages
    balloon.config.restore_actual(state.actual_pages)
    if state.target_pages != state.actual_pages:  # the change goes on
        balloon.request.ask(state.target_pages, state.actual_pages)
    if state.poison_val is not None:
        balloon.config.poison.write(state.poison_val, alone=True)
    balloon.hint_round.cmd_id = state.cmd_id
    balloon.statistics.set_poll_interval(state.poll_interval_s)

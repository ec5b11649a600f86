"""What a device must still know after its process was replaced while its guest went on.

Without the target the guest would be told to take everything back; without the id of the last hint
round an old one could be used again.  A round of before is over: the guest is shown DONE, or it
would keep the pages it has hinted.
Not here: the file (vhost_user/state_file.py), what a migration takes along (moved_state.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

from ballonet.device.balloon import Balloon
from ballonet.device.statistics import POLL_INTERVAL_S_MAX
from ballonet.errors import SettingsError
from ballonet.virtio.hint_ids import CMD_ID_MAX, CMD_ID_MIN, cmd_id_after

__all__ = ["STATE_FIELDS", "DeviceState", "StateField", "restore_state", "state_of"]

VERSION: Final = 1
_U32_MAX: Final = (1 << 32) - 1
#: Ids that are left out when a file is gone on from.  It is written a little later than a round
#: begins, and while a disk is full much later; a round whose id a driver had before is none to it,
#: and what it says of the old one would be taken for the new.  More rounds than these no migration
#: has in that time.
_UNSAVED_ROUNDS: Final = 1 << 16


class StateField(NamedTuple):
    """One number of the state: how a file and a migration's blob name it, and what it may be."""

    name: str  #: in a file
    tag: int  #: in a blob; never to be used again for something else
    least: int
    most: int
    is_optional: bool = False  #: None is a value of it


STATE_FIELDS: Final = (
    StateField("target_pages", 1, 0, _U32_MAX),
    StateField("actual_pages", 2, 0, _U32_MAX),
    StateField("poison_val", 3, 0, _U32_MAX, is_optional=True),
    StateField("cmd_id", 4, CMD_ID_MIN, CMD_ID_MAX),
    StateField("poll_interval_s", 5, 0, POLL_INTERVAL_S_MAX),
)


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
        for name, _, least, most, is_optional in STATE_FIELDS:
            value = fields.get(name)
            if is_optional and value is None:
                continue
            if type(value) is not int or not least <= value <= most:  # True is an int, too
                raise SettingsError(f"state file: {name}", str(value), f"{least} to {most}")
        return cls(**{row.name: fields[row.name] for row in STATE_FIELDS if row.name in fields})


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
    balloon.hint_round.go_on_after(cmd_id_after(state.cmd_id, _UNSAVED_ROUNDS))
    balloon.statistics.set_poll_interval(state.poll_interval_s)

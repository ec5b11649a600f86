"""The guests of a host, in a file of its directory, so that they are there again after a restart.

Sizes are bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from ballonet.errors import SettingsError
from ballonet.qmp.host_commands import MEMORY_BYTES_MIN
from ballonet.runtime.files import write_whole

__all__ = ["MEMORY_BYTES_MAX", "MEMORY_BYTES_MIN", "GuestList", "check_memory", "check_name"]

VERSION: Final = 1
#: Of a guest; `num_pages` counts at most 2**32 - 1 pages of 4 KiB.
MEMORY_BYTES_MAX: Final = 1 << 44
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: The host's own files have this name.
_RESERVED: Final = "host"


def check_name(name: str) -> None:
    """Raises: SettingsError, unless files of a guest may have this name."""
    if not _NAME.fullmatch(name) or name == _RESERVED:
        allowed = f"1 to 64 letters, digits, '.', '_' and '-', other than {_RESERVED!r}"
        raise SettingsError("name of a guest", name, allowed)


def check_memory(name: str, memory: object) -> None:
    """Raises: SettingsError, unless a guest may have so many bytes; None: what its VMM shares."""
    is_size = isinstance(memory, int) and not isinstance(memory, bool)
    if memory is None or (is_size and MEMORY_BYTES_MIN <= int(str(memory)) <= MEMORY_BYTES_MAX):
        return
    allowed = f"{MEMORY_BYTES_MIN} to {MEMORY_BYTES_MAX} bytes, or null"
    raise SettingsError(f"memory of {name}", memory, allowed)


class GuestList:
    """Name -> memory of the guest, None: what its VMM shares."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, int | None]:
        """What an earlier process left. Raises: SettingsError."""
        try:
            fields = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise SettingsError("list of guests", str(self._path), f"JSON: {error}") from error
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            raise SettingsError("list of guests", str(self._path), f"of version {VERSION}")
        guests = fields.get("guests")
        if not isinstance(guests, dict):
            raise SettingsError("list of guests", str(self._path), "an object named guests")
        for name, memory in guests.items():
            check_name(name)
            check_memory(name, memory)
        return guests

    def save(self, guests: dict[str, int | None]) -> None:
        """Write all of them. Raises: SystemCallError."""
        write_whole(self._path, json.dumps({"version": VERSION, "guests": guests}, indent=1) + "\n")

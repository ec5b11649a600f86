"""The releases of QEMU a monitor can speak as, and what differs between them.

Source: what QEMU 7.2 and 11.1 answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["NEWEST", "VERSIONS", "QemuVersion"]


@dataclass(frozen=True, slots=True)
class QemuVersion:
    """One release, as far as a client of a balloon can tell."""

    major: int
    minor: int
    size_parameter: str  #: what an error calls the argument of `balloon`
    has_singlestep: bool  #: `query-status` says so

    @property
    def text(self) -> str:
        """The number of the release."""
        return f"{self.major}.{self.minor}.0"

    def info(self) -> dict[str, object]:
        """What `query-version` answers."""
        numbers = {"micro": 0, "minor": self.minor, "major": self.major}
        return {"qemu": numbers, "package": "ballonet"}


NEWEST: Final = QemuVersion(11, 1, "value", has_singlestep=False)
VERSIONS: Final = {"7.2": QemuVersion(7, 2, "target", has_singlestep=True), "11.1": NEWEST}

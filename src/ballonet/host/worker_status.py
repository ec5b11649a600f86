"""What a worker tells its supervisor: one message of fixed size, which is checked in full.

0   8  memory that the front-end shares, in bytes; 0: there is no front-end
8   4  target, in balloon pages
12  4  what the driver says is in the balloon, in balloon pages
16  1  stage of the newest request, by its place in `Stage`
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from ballonet.balloon.request import Stage
from ballonet.errors import WireError

__all__ = ["STATUS_BYTES", "WorkerStatus"]

_LAYOUT: Final = struct.Struct("=QIIB")
STATUS_BYTES: Final = _LAYOUT.size
_STAGES: Final = tuple(Stage)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A guest at one moment."""

    guest_bytes: int
    target_pages: int
    actual_pages: int
    stage: Stage

    def pack(self) -> bytes:
        """As a message."""
        stage = _STAGES.index(self.stage)
        return _LAYOUT.pack(self.guest_bytes, self.target_pages, self.actual_pages, stage)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a message of a worker that may have been taken over. Raises: WireError."""
        if len(raw) != STATUS_BYTES:
            raise WireError("status", f"{len(raw)} bytes", f"must be {STATUS_BYTES}", __name__)
        guest_bytes, target_pages, actual_pages, stage = _LAYOUT.unpack(raw)
        if stage >= len(_STAGES):
            raise WireError("stage", stage, f"must be below {len(_STAGES)}", __name__)
        return cls(guest_bytes, target_pages, actual_pages, _STAGES[stage])

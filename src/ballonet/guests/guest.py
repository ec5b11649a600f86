"""What any guest of ours can be asked for, whatever kernel it runs."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

__all__ = ["Guest"]


class Guest(Protocol):
    """A guest, running inside a `with` block."""

    release: str  #: of its kernel

    def __enter__(self) -> Self:
        """Boot. Raises: GuestError."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """End it; nothing of it remains."""
        ...

    @property
    def is_running(self) -> bool:
        """Its kernel's process lives."""
        ...

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo, in bytes. Raises: GuestError."""
        ...

    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat. Raises: GuestError."""
        ...

    def use_memory(self, percent: int) -> None:
        """Fill a part of what is available and free it again. Raises: GuestError."""
        ...

    def host_memory_bytes(self) -> int:
        """Host memory behind it."""
        ...

"""What a real driver can be seen to do, whatever balloon it speaks to.

Each kind of balloon has a witness of its own (virtio_evidence, vmware_evidence).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Evidence", "Witness"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether something was seen at work, and what was seen.

    What the driver does without having to negotiate it has no bit, and is not offered.
    """

    name: str
    observed: bool
    evidence: str
    bit: int | None = None
    offered: bool | None = None
    negotiated: bool | None = None


class Witness(Protocol):
    """A running guest whose driver is looked at."""

    @property
    def subject(self) -> str:
        """What is looked at, for people."""
        ...

    @property
    def release(self) -> str:
        """Of the guest's kernel."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the observations, in the order in which they are made."""
        ...

    def observe(self) -> Iterator[Evidence]:
        """Make every observation, one after the other. Raises: GuestError, if the guest is lost."""
        ...

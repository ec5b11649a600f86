"""What a fuzz run needs of the thing it runs inputs against."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

#: Runs one input; returns what was done for it, as a signature. Raises: FindingError.
RunInput = Callable[[bytes], frozenset[str]]


class FindingError(AssertionError):
    """What is under test did what it must not do."""


class FuzzSetting(Protocol):
    """What all inputs of a run have in common; `str` is its name."""

    def ready(self) -> AbstractContextManager[RunInput]:
        """A place for as many inputs as wanted, one after the other."""
        ...

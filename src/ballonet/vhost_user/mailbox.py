"""A value on its way to the device's thread, from any other; of many the newest counts.

Who looks meanwhile is shown the value as if it had arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """For one kind of value."""

    def __init__(
        self, post: Callable[[Callable[[], None]], None], take: Callable[[T], None]
    ) -> None:
        """`post` runs a function on the device's thread; `take` is called there with a value."""
        self._post, self._take = post, take
        self._changing = Lock()
        self._letter: tuple[T] | None = None

    def put(self, value: T) -> None:
        """Let the device have this value soon; returns at once."""
        with self._changing:
            is_on_its_way = self._letter is not None
            self._letter = (value,)
        if not is_on_its_way:
            self._post(self._deliver)

    def newest(self, arrived: T) -> T:
        """The value on its way, else the one that has arrived."""
        letter = self._letter
        return arrived if letter is None else letter[0]

    def _deliver(self) -> None:
        letter = self._letter
        if letter is None:
            return
        try:
            self._take(letter[0])
        finally:  # whatever went wrong must not stop what comes next
            if self._is_newer_than(letter):
                self._post(self._deliver)

    def _is_newer_than(self, letter: tuple[T]) -> bool:
        """Empty the box unless something came meanwhile."""
        with self._changing:
            if self._letter is letter:
                self._letter = None
            return self._letter is not None

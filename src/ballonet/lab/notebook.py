"""What an experiment writes down while it runs: steps, what was seen, and what that supports.

A claim is a sentence and whether what was seen supports it.  An answer stands on its claims: one
that is not supported makes the experiment fail, so that no answer becomes false unnoticed.
Not here: how it is printed (report.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ballonet.errors import UsageError

__all__ = ["Block", "Claim", "Entry", "Notebook", "Seen", "Step", "Table"]

#: What can be seen: a number, a text, yes or no.
Value = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Step:
    """Something was done."""

    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A value was read; `unit` is "bytes", "pages" (of 4 KiB), "ms", "s", "us" or nothing."""

    name: str
    value: Value
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Many values, a row each."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Text as it was found: a dump, a log, a trace."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What was seen supports a sentence, or does not."""

    text: str
    holds: bool


Entry = Step | Seen | Table | Block | Claim


class Notebook:
    """One run's; `tell` hears of each step as it begins."""

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self.entries: list[Entry] = []
        self.files: dict[str, str] = {}  #: texts too long to be printed, by the name to save under
        self.kernel = ""  #: the release that it ran on, and in what
        self.conclusion = ""
        self._tell = tell

    def runs_on(self, release: str, machine: str) -> None:
        """Note the kernel, and what it runs in."""
        self.kernel = f"Linux {release} ({machine})" if release else machine

    def step(self, text: str) -> None:
        """Something is done now."""
        self.entries.append(Step(text))
        self._tell(text)

    def see(self, name: str, value: Value, unit: str = "") -> None:
        """A value was read."""
        self.entries.append(Seen(name, value, unit))

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Many values were read."""
        self.entries.append(Table(title, tuple(headings), tuple(map(tuple, rows))))

    def block(self, title: str, text: str) -> None:
        """A text was found."""
        self.entries.append(Block(title, text.rstrip("\n")))

    def keep(self, name: str, text: str) -> None:
        """A file was made, for whoever wants to save it."""
        self.files[name] = text

    def claim(self, text: str, *, holds: bool) -> None:
        """What was seen supports this, or does not."""
        self.entries.append(Claim(text, holds))

    def conclude(self, text: str) -> None:
        """What follows, with figures of this run; once."""
        if self.conclusion:
            raise UsageError("an experiment has one conclusion")
        self.conclusion = text

    @property
    def unsupported(self) -> list[str]:
        """Claims that do not hold."""
        return [one.text for one in self.entries if isinstance(one, Claim) and not one.holds]

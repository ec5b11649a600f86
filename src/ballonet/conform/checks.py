"""A check: one requirement, observed from outside, with a verdict and what was seen.

A check is a function that returns its evidence, or raises `Failed` or `NotApplicable`.  Nothing
asks who made what is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Generic, TypeVar

from ballonet.errors import BallonetError

__all__ = [
    "Check",
    "Failed",
    "Level",
    "NotApplicable",
    "Result",
    "Suite",
    "Verdict",
    "expect",
    "run_checks",
]

S = TypeVar("S")


class Failed(Exception):  # noqa: N818 - a verdict, not an error
    """The requirement is not kept; the text says what was seen."""


class NotApplicable(Exception):  # noqa: N818 - a verdict, not an error
    """The requirement cannot be observed here; the text says why."""


class Verdict(Enum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NOT_APPLICABLE = "n/a"


class Level(Enum):
    """How strong a requirement is."""

    MUST = "must"
    SHOULD = "should"
    PITFALL = "pitfall"  #: no rule of the specification: a mistake somebody has made


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One requirement, in our words, and how to observe it."""

    id: str
    level: Level
    requirement: str
    observe: Callable[[S], str]


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found."""

    id: str
    level: Level
    requirement: str
    verdict: Verdict
    evidence: str
    seconds: float


class Suite(Generic[S]):
    """Checks in the order they were written."""

    def __init__(self) -> None:
        self.checks: list[Check[S]] = []

    def check(
        self, check_id: str, level: Level, requirement: str
    ) -> Callable[[Callable[[S], str]], Callable[[S], str]]:
        """Add a function as a check."""

        def add(observe: Callable[[S], str]) -> Callable[[S], str]:
            self.checks.append(Check(check_id, level, requirement, observe))
            return observe

        return add


def expect(what: str, seen: object, wanted: object) -> None:
    """Raises: Failed, unless something is as it must be."""
    if seen != wanted:
        raise Failed(f"{what}: {seen}, not {wanted}")


def run_checks(checks: Iterable[Check[S]], subject: S) -> Iterator[Result]:
    """Each check on a subject; trouble on the way counts as a failure, because it is one."""
    for check in checks:
        begun_s = monotonic()
        try:
            verdict, evidence = Verdict.PASS, check.observe(subject)
        except Failed as error:
            verdict, evidence = Verdict.FAIL, str(error)
        except NotApplicable as error:
            verdict, evidence = Verdict.NOT_APPLICABLE, str(error)
        except BallonetError as error:
            verdict, evidence = Verdict.FAIL, f"the check could not be finished: {error}"
        seconds = round(monotonic() - begun_s, 3)
        yield Result(check.id, check.level, check.requirement, verdict, evidence, seconds)

"""Rules that the tests themselves keep."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
#: The one place that may sleep and decide by a clock; it says why.
WAITING: Final = TESTS / "support" / "wait.py"
#: A program of its own, whose waits are the intervals of its progress.
FUZZER: Final = TESTS / "fuzz" / "__main__.py"
#: Calls whose first argument is a time-out in seconds; others may name one `timeout`.
TIMED: Final = {"communicate", "join", "result", "settimeout", "wait"}
SHORT_S: Final = 60


def found(is_wrong: Callable[[ast.Call], bool]) -> list[str]:
    """Every call in the tests that is wrong, as `path:line`."""
    return [
        f"{path.relative_to(TESTS)}:{call.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        if path not in {WAITING, FUZZER}
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and is_wrong(call)
    ]


def name(call: ast.Call) -> str:
    """The last part of the name that is called."""
    return ast.unparse(call.func).rsplit(".", 1)[-1]


def time_outs(call: ast.Call) -> Iterator[float]:
    """Numbers that limit how long a call may take; 0 only looks."""
    given = [one.value for one in call.keywords if one.arg == "timeout"]
    for value in [*given, *(call.args[:1] if name(call) in TIMED else ())]:
        if isinstance(value, ast.Constant) and isinstance(value.value, int | float) and value.value:
            yield value.value


def test_nothing_sleeps() -> None:
    """`wait_until` waits for what is meant, and no longer; `sleep(0)` only lets others run."""
    sleeps = {"sleep", "time.sleep", "asyncio.sleep"}
    assert not found(
        lambda call: ast.unparse(call.func) in sleeps and ast.unparse(call.args[0]) != "0"
    )


def test_no_time_out_is_too_short_for_a_busy_machine() -> None:
    """A time-out tells a hang from a slow machine: `PATIENCE_S`."""
    assert not found(lambda call: any(one < SHORT_S for one in time_outs(call)))

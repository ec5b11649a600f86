"""Options of a command line: each argument with the one that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["following", "option_value"]


def following(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each argument, and the next one or nothing."""
    return zip(arguments, [*arguments, ""][1:], strict=True)


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """What stands behind an option, or after its `=`."""
    for argument, value in following(arguments):
        if argument == option:
            return value
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None

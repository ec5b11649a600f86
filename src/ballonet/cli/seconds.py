"""Times on the command line."""

from __future__ import annotations

import re
from typing import Final

import click

__all__ = ["SecondsType"]

_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


class SecondsType(click.ParamType[float]):
    """A length of time in seconds, written as ``30s``, ``500ms`` or ``2m``."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the time; wrong use if it is none, or nothing at all."""
        found = _TIME.fullmatch(str(value).strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not seconds:
            key = param.opts[0] if param else "time"
            raise click.UsageError(f"{key}: got {value!r}, expected a time such as 30s or 2m", ctx)
        return seconds

"""Sizes on the command line."""

from __future__ import annotations

import click

from ballonet.errors import SettingsError
from ballonet.units import parse_bytes

__all__ = ["SizeType"]


class SizeType(click.ParamType[int]):
    """A size in bytes, written as ``512M`` or ``1.5GiB``, within limits."""

    name = "size"

    def __init__(self, least_bytes: int, most_bytes: int) -> None:
        self._least_bytes, self._most_bytes = least_bytes, most_bytes

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read the size; wrong use if it is none, or out of limits."""
        if isinstance(value, int):
            return value
        key = param.opts[0] if param else "size"
        try:
            return parse_bytes(str(value), key=key, limits=(self._least_bytes, self._most_bytes))
        except SettingsError as error:
            raise click.UsageError(str(error), ctx) from error

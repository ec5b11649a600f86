"""Keys of the configuration: fields of structs that say what they mean and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from msgspec import Meta, Struct
from msgspec.structs import fields

__all__ = ["Key", "keys_of", "meta"]


class Key(NamedTuple):
    """One key of the file."""

    table: str
    name: str
    default: object
    meaning: str
    allowed: str


def meta(meaning: str, allowed: str, **limits: Any) -> Meta:  # noqa: ANN401 - those of Meta
    """What is said of a key, and which values of its type it may have."""
    return Meta(description=meaning, extra={"allowed": allowed}, **limits)


def keys_of(table: str, settings: type[Struct]) -> Iterator[Key]:
    """Those of a table, in order; what is a table itself is no key."""
    for field in fields(settings):
        about = next((one for one in get_args(field.type) if isinstance(one, Meta)), None)
        if about is not None:
            allowed = str((about.extra or {})["allowed"])
            yield Key(table, field.name, field.default, about.description or "", allowed)

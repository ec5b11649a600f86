"""Reading a monitor's replies: whoever answers may answer anything."""

from __future__ import annotations

from typing import Final, TypeVar

from ballonet.errors import MonitorError

__all__ = ["integer", "member", "optional", "printable"]

T = TypeVar("T")

#: QMP's integers have 64 bits, signed or not [QEMU qapi/qobject-input-visitor.c].
_INTEGER_END: Final = 1 << 64


def member(reply: object, name: str, kind: type[T], command: str) -> T:
    """One member of an object. Raises: MonitorError, if it is missing or of another type."""
    if not isinstance(reply, dict) or not _is(reply.get(name), kind):
        raise MonitorError(f"the monitor answers {command} without a proper {name!r}")
    value: T = reply[name]
    return value


def optional(reply: object, name: str, kind: type[T], command: str) -> T | None:
    """The same for one that may be missing or null."""
    if isinstance(reply, dict) and reply.get(name) is None:
        return None
    return member(reply, name, kind, command)


def integer(reply: object, name: str, command: str) -> int:
    """A member that is an integer of QMP. Raises: MonitorError."""
    value = member(reply, name, int, command)
    if not -_INTEGER_END < value < _INTEGER_END:
        raise MonitorError(f"the monitor answers {command} with a {name!r} of more than 64 bits")
    return value


def printable(text: str) -> str:
    """What a terminal can show of a text without obeying it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else "�" for one in text)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))

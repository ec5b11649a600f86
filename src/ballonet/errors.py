"""Every error this package raises on purpose.

    BallonetError
    ├─ WireError(ValueError)     bytes no correct peer sends           field, got, rule, source
    ├─ PeerError                 right bytes, wrong moment or content
    │  ├─ RingError              driver: index, loop, order, size
    │  ├─ GuestMemoryError       driver: outside every region          gpa, length
    │  ├─ SessionError           vhost-user front-end                  request
    │  └─ StreamError            the other end of a migration          record, number
    ├─ SystemCallError           the OS refused; __cause__ is the OSError    operation, target
    │  ├─ ListenError            a socket that cannot be had
    │  └─ MapError               a memory region that cannot be mapped
    ├─ MigrationError            a migration that ended without success; the source goes on
    ├─ GuestError                a guest that did not start, answer or stop
    ├─ MonitorError              a monitor that cannot be reached, or makes no sense
    │  └─ CommandRefusedError    a command that it refuses              command, qmp_class, desc
    ├─ UsageError(RuntimeError)  our own caller, out of order
    ├─ ExperimentError           what was seen does not support an answer    experiment, claims
    └─ SettingsError(ValueError) what the user asked for               key, got, allowed

Where each is caught, and what it may cause, is in docs/architecture.md.
"""

from __future__ import annotations

__all__ = [
    "BallonetError",
    "CommandRefusedError",
    "ExperimentError",
    "GuestError",
    "GuestMemoryError",
    "GuestPanicError",
    "ListenError",
    "MapError",
    "MigrationError",
    "MonitorError",
    "PeerError",
    "RingError",
    "SessionError",
    "SettingsError",
    "StreamError",
    "SystemCallError",
    "UsageError",
    "WireError",
]


class BallonetError(Exception):
    """Any error of ours that is not a bug."""


class WireError(BallonetError, ValueError):
    """Bytes that no correct peer can have sent: which field, what stood there, which rule."""

    def __init__(self, field: str, got: object, rule: str, source: str) -> None:
        super().__init__(f"{field}: got {got}, {rule} [{source}]")
        self.field, self.got, self.rule, self.source = field, got, rule, source


class PeerError(BallonetError):
    """A peer sent the right bytes at the wrong moment, or with a content it must not send."""


class RingError(PeerError):
    """A ring whose structure is broken: nothing more can be read from it."""


class GuestMemoryError(PeerError):
    """A range of guest memory that lies in no region, or not wholly in one."""

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"guest memory {gpa:#x} + {length} bytes lies in no region")
        self.gpa, self.length = gpa, length


class SessionError(PeerError):
    """A vhost-user front-end asked for something that cannot be done."""

    def __init__(self, request: str, reason: str) -> None:
        super().__init__(f"{request}: {reason}")
        self.request, self.reason = request, reason


class StreamError(PeerError):
    """A stream of a migration that cannot be right: which record, the how manyth, and why."""

    def __init__(self, record: str, number: int, reason: str) -> None:
        super().__init__(f"record {number}, {record}: {reason}")
        self.record, self.number, self.reason = record, number, reason


class SystemCallError(BallonetError):
    """The operating system refused; the cause is the OSError."""

    def __init__(self, operation: str, target: str, reason: str) -> None:
        super().__init__(f"{operation} {target}: {reason}")
        self.operation, self.target, self.reason = operation, target, reason


class ListenError(SystemCallError):
    """A socket that cannot be listened on."""


class MapError(SystemCallError):
    """A memory region that cannot be mapped."""


class GuestError(BallonetError):
    """A guest that did not start, did not answer, or did not do what it was told."""


class MigrationError(BallonetError):
    """A migration that ended without success; the source goes on, its memory whole."""


class MonitorError(BallonetError):
    """A monitor that cannot be reached, or whose answers make no sense."""


class CommandRefusedError(MonitorError):
    """A monitor refuses a command: its class of error, and its words."""

    def __init__(self, command: str, qmp_class: str, desc: str) -> None:
        super().__init__(f"the monitor refused {command}: {desc}")
        self.command, self.qmp_class, self.desc = command, qmp_class, desc


class UsageError(BallonetError, RuntimeError):
    """A call that makes no sense in the present state: a bug in the calling program."""


class ExperimentError(BallonetError):
    """An experiment has seen something else than its answer says: a wrong answer, or a fault."""

    def __init__(self, experiment: str, claims: list[str]) -> None:
        self.experiment, self.claims = experiment, claims
        super().__init__(f"{experiment}: what was seen does not support: {'; '.join(claims)}")


class SettingsError(BallonetError, ValueError):
    """An invalid setting: the key, what stood there, what is allowed."""

    def __init__(self, key: str, got: object, allowed: str) -> None:
        super().__init__(f"{key}: got {got!r}, expected {allowed}")
        self.key, self.got, self.allowed = key, got, allowed


class GuestPanicError(BallonetError):
    """The embedded guest's kernel cannot go on: no memory, or memory that changed by itself."""

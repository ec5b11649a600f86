"""What is used of libvirt-python, which has no types of its own: the only module that imports it.

It is imported when it is used, because few need it.  What it says on stderr is switched off, since
every error is raised, too; and looking at domains must not start a daemon that was not there.
Units: KiB, as libvirt has them, and seconds.
Source: https://libvirt.org/html/libvirt-libvirt-domain.html; libvirt src/remote/remote_driver.c.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final, Protocol

from ballonet.errors import MonitorError

__all__ = [
    "AFFECT_LIVE",
    "STATS_ACTIVE",
    "STATS_BALLOON",
    "STATS_NOWAIT",
    "STATS_STATE",
    "Connection",
    "Domain",
    "Libvirt",
    "is_installed",
    "load",
]

#: Change what runs, and not what is stored for its next start [VIR_DOMAIN_AFFECT_LIVE].
AFFECT_LIVE: Final = 1 << 0
#: Which statistics [virDomainStatsTypes].
STATS_STATE: Final = 1 << 0
STATS_BALLOON: Final = 1 << 2
#: Of domains that run, and without waiting for any [virConnectGetAllDomainStatsFlags].
STATS_ACTIVE: Final = 1 << 0
STATS_NOWAIT: Final = 1 << 29
_INSTALL: Final = "libvirt-python is not installed: pip install 'ballonet[libvirt]'"


class Domain(Protocol):
    """virDomain."""

    def name(self) -> str:
        """Unique within its connection."""
        ...

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        """Of this run; -1, if it does not run."""
        ...

    def isActive(self) -> int:  # noqa: N802
        """It runs, or is paused."""
        ...

    def state(self) -> Sequence[int]:
        """The state and its reason."""
        ...

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802
        """What runs now."""
        ...

    def memoryStats(self) -> Mapping[str, object]:  # noqa: N802
        """Asks QEMU for the balloon's size and the newest statistics."""
        ...

    def setMemoryFlags(self, memory: int, flags: int = 0) -> int:  # noqa: N802
        """Ask for another size, in KiB left to the guest."""
        ...

    def setMemoryStatsPeriod(self, period: int, flags: int = 0) -> int:  # noqa: N802
        """Have the guest asked so often; 0: never."""
        ...

    def controlInfo(self, flags: int = 0) -> Sequence[int]:  # noqa: N802
        """Whether its QEMU answers libvirt: state, detail, milliseconds."""
        ...

    def jobStats(self, flags: int = 0) -> Mapping[str, object]:  # noqa: N802
        """What libvirt does with it that takes long."""
        ...


class Connection(Protocol):
    """virConnect."""

    def close(self) -> int:
        """Wait for a libvirtd that may never answer."""
        ...

    def isAlive(self) -> int:  # noqa: N802
        """It was not lost; libvirtd is not asked."""
        ...

    def getAllDomainStats(  # noqa: N802
        self, stats: int = 0, flags: int = 0
    ) -> Sequence[tuple[Domain, Mapping[str, object]]]:
        """Of every domain."""
        ...

    def domainListGetStats(  # noqa: N802
        self, doms: Sequence[Domain], stats: int = 0, flags: int = 0
    ) -> Sequence[tuple[Domain, Mapping[str, object]]]:
        """Of some."""
        ...

    def lookupByName(self, name: str) -> Domain:  # noqa: N802
        """Whether it runs or not."""
        ...

    def lookupByID(self, id: int) -> Domain:  # noqa: A002, N802
        """One that runs."""
        ...


class Libvirt(Protocol):
    """The module."""

    libvirtError: type[Exception]  # noqa: N815
    VIR_ERR_NO_DOMAIN: int
    VIR_ERR_OPERATION_INVALID: int
    VIR_ERR_AUTH_FAILED: int
    VIR_ERR_AUTH_UNAVAILABLE: int
    VIR_ERR_ACCESS_DENIED: int

    def open(self, name: str) -> Connection:
        """By which domains can be changed."""
        ...

    def openReadOnly(self, name: str) -> Connection:  # noqa: N802
        """By which they can be looked at; nobody is asked for a password."""
        ...

    def registerErrorHandler(  # noqa: N802
        self, f: Callable[[object, object], None], ctx: object
    ) -> int:
        """Who is told of errors in place of stderr."""
        ...


def is_installed() -> bool:
    """Whether libvirt-python is there; it is not imported."""
    return find_spec("libvirt") is not None


def load() -> Libvirt:
    """The module. Raises: MonitorError, if it is not installed."""
    os.environ.setdefault("LIBVIRT_AUTOSTART", "0")
    try:
        import libvirt  # noqa: PLC0415 - only where it is used
    except ImportError:
        raise MonitorError(_INSTALL) from None
    module: Libvirt = libvirt
    module.registerErrorHandler(_say_nothing, None)
    return module


def _say_nothing(_: object, __: object) -> None:
    """Every error is raised, too."""

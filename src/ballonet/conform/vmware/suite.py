"""All checks of VMware's balloon, in order."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Check
from ballonet.conform.vmware import guest_checks, host_traps, locking, odd_hosts, starting
from ballonet.conform.vmware.guest_session import GuestRig
from ballonet.conform.vmware.host_rig import HostRig

__all__ = ["GUEST_CHECKS", "HOST_CHECKS"]

HOST_CHECKS: Final[tuple[Check[HostRig], ...]] = tuple(
    check for module in (starting, locking, host_traps) for check in module.SUITE.checks
)

GUEST_CHECKS: Final[tuple[Check[GuestRig], ...]] = tuple(
    check for module in (guest_checks, odd_hosts) for check in module.SUITE.checks
)

"""All checks of Hyper-V's Dynamic Memory, in order."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Check
from ballonet.conform.hyperv import guest_checks, host_traps, odd_hosts, sizes, terms
from ballonet.conform.hyperv.guest_session import GuestRig
from ballonet.conform.hyperv.host_rig import HostRig

__all__ = ["GUEST_CHECKS", "HOST_CHECKS"]

HOST_CHECKS: Final[tuple[Check[HostRig], ...]] = tuple(
    check for module in (terms, sizes, host_traps) for check in module.SUITE.checks
)

GUEST_CHECKS: Final[tuple[Check[GuestRig], ...]] = tuple(
    check for module in (guest_checks, odd_hosts) for check in module.SUITE.checks
)

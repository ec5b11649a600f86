"""All checks of a driver, in order."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Check
from ballonet.conform.driver import features, free_pages, odd_devices, size, statistics
from ballonet.conform.driver.guests import DriverRig

__all__ = ["DRIVER_CHECKS"]

DRIVER_CHECKS: Final[tuple[Check[DriverRig], ...]] = tuple(
    check
    for module in (features, size, statistics, free_pages, odd_devices)
    for check in module.SUITE.checks
)

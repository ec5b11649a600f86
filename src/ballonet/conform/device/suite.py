"""All checks of a device, in order."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Check
from ballonet.conform.device import (
    configuration,
    hints,
    inflation,
    legacy,
    migration,
    reporting,
    rings,
    statistics,
)
from ballonet.conform.device.rig import Rig

__all__ = ["DEVICE_CHECKS"]

DEVICE_CHECKS: Final[tuple[Check[Rig], ...]] = tuple(
    check
    for module in (configuration, inflation, statistics, hints, reporting, rings, migration, legacy)
    for check in module.SUITE.checks
)

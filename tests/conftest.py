"""Hypothesis profiles, and which kernel the tests ran on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from ballonet.errors import GuestError
from ballonet.guests.kernel_package import find_kernel_package

# A busy machine is slow, and that is no fault of what is tested.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the kernel behind the evidence, and print what tests have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{name}: {value}")
    try:
        release = find_kernel_package().release
    except GuestError as error:
        terminalreporter.write_line(f"tests/kernel did not run: {error}")
    else:
        ran = sum(
            "tests/kernel/" in report.nodeid
            for report in terminalreporter.getreports("passed")
            if report.when == "call"
        )
        terminalreporter.write_line(
            f"tests/kernel: {ran} passed on Linux {release} (User-Mode Linux)"
        )

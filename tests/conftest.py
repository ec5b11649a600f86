"""Hypothesis profiles, and which kernel the tests ran on."""

from __future__ import annotations

import signal
import subprocess
import threading
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from tests.support.orphans import end_children_with_us

from ballonet.errors import GuestError
from ballonet.guests.kernel_package import find_kernel_package

# A busy machine is slow, and that is no fault of what is tested.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


_WATCHERS: Final[list[subprocess.Popen[bytes]]] = []


def pytest_configure() -> None:
    """Let nothing outlive the tests, and let what they start end on signals as it does for users.

    A shell ignores INT for what it runs in the background, and nohup HUP; children inherit that.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _WATCHERS.append(end_children_with_us())


def pytest_unconfigure() -> None:
    """Every test has ended what it has started."""
    while _WATCHERS:
        watcher = _WATCHERS.pop()
        watcher.kill()
        watcher.communicate()


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

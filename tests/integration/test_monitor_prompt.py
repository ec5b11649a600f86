"""The prompt of `ballonet monitor`, where what it needs is not installed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.integration.device_under_test import running_device

from ballonet.monitor.serving import monitoring
from ballonet.vhost_user.listener import listening_socket

WITHOUT_PROMPT = """
import sys
sys.modules["prompt_toolkit"] = None
from ballonet.cli.main import main
main()
"""


def test_a_prompt_that_is_not_installed_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with (
        running_device(tmp_path / "device") as device,
        listening_socket(tmp_path / "qmp") as sock,
        monitoring(device.control, [sock]),
        os.fdopen(ours, "rb"),
        os.fdopen(theirs, "rb") as terminal,
    ):
        command = [sys.executable, "-c", WITHOUT_PROMPT, "monitor", str(tmp_path / "qmp")]
        done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "ballonet: a prompt needs more than is installed: pip install prompt-toolkit,"
        " or pipe commands in\n"
    )

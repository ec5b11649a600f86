"""The sandbox of the programs that serve guests."""

from __future__ import annotations

import logging
from typing import Final

import click

from ballonet.cli.file_limit import FILES_WANTED
from ballonet.runtime.sandbox import Sandbox, SandboxLimits

__all__ = ["SANDBOX_OPTION", "make_sandbox"]

#: The biggest guest there can be, mapped twice while its memory table is replaced, and ourselves.
_MAPPED_BYTES: Final = (2 << 44) + (4 << 30)
#: Of a log, or a trace whose limit was not given.
_FILE_BYTES: Final = 2 << 30
_log = logging.getLogger(__name__)

SANDBOX_OPTION: Final = click.option(
    "--sandbox/--no-sandbox",
    default=True,
    show_default=True,
    help="Give up capabilities, new privileges, more memory and files than a device needs and, with"
    " libseccomp, system calls that no device makes, such as starting a program.",
)


def make_sandbox(file_bytes: int = 0) -> Sandbox:
    """To be entered before the first guest is served; `file_bytes`: of the biggest file wanted."""
    limits = SandboxLimits(_MAPPED_BYTES, FILES_WANTED, max(_FILE_BYTES, file_bytes))
    sandbox = Sandbox(limits)
    if not sandbox.filters_system_calls:
        _log.info("system calls are not filtered; for that: pip install 'ballonet[sandbox]'")
    return sandbox

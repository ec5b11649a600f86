"""The process of a User-Mode Linux kernel: its command line, and how it is started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ballonet.errors import GuestError
from ballonet.guests.fp_registers import NO_AVX, exceed_the_kernel, only_sse_registers
from ballonet.guests.processes import mark_of

__all__ = ["LinuxGuestSettings", "kernel_arguments", "start_kernel"]


@dataclass(frozen=True, slots=True)
class LinuxGuestSettings:
    """What a guest is started with."""

    memory_bytes: int
    socket_path: Path | None = None  #: vhost-user socket of its balloon; None: it has none
    command_line: tuple[str, ...] = ()  #: further kernel arguments
    load_balloon: bool = True  #: load the balloon driver at boot


def kernel_arguments(settings: LinuxGuestSettings, directory: Path) -> list[str]:
    """The kernel's command line, console and serial line excepted."""
    arguments = [
        f"mem={settings.memory_bytes >> 10}k",
        f"initrd={directory / 'initramfs'}",
        mark_of(directory),
        "con=null",
        *settings.command_line,
    ]
    if settings.socket_path is not None:
        arguments.append(f"virtio_uml.device={settings.socket_path}:5")
    if not settings.load_balloon:
        arguments.append("BALLONET_BALLOON=no")
    return arguments


def start_kernel(
    command: Sequence[str | Path],
    directory: Path,
    *,
    stdin: int,
    output: int | IO[bytes],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a kernel whose files are in its guest's own `directory`.  Raises: GuestError."""
    only_sse = exceed_the_kernel()
    try:
        return subprocess.Popen(
            [*command, NO_AVX] if only_sse else command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            env={**os.environ, "TMPDIR": str(directory)},
            start_new_session=True,
            preexec_fn=only_sse_registers() if only_sse else None,  # noqa: PLW1509 - takes no lock
        )
    except subprocess.SubprocessError as error:  # by what is called before the program
        raise GuestError(
            "User-Mode Linux cannot keep this processor's registers, and system calls cannot be"
            " filtered here to make it do without: another machine is needed"
        ) from error

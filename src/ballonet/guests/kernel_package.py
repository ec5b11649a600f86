"""Where the User-Mode Linux kernel, its modules and busybox are on this machine.

Names no version: whatever the installed packages hold is used.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["KernelPackage", "find_kernel_package"]

INSTALL: Final = "as root: apt-get install user-mode-linux busybox-static"
_MODULE_TREES: Final = Path("/usr/lib/uml/modules")
_MODULE: Final = "virtio_balloon.ko"
_UNPACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".ko": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """Everything a guest is made of; `applets` are the names busybox answers to."""

    kernel: Path
    release: str
    balloon_module: bytes
    busybox: bytes
    applets: list[str]


def find_kernel_package() -> KernelPackage:
    """Look for kernel, balloon module and busybox. Raises: GuestError, saying what to install."""
    kernel = _program("linux.uml")
    release = _output(kernel, "--version").strip()
    busybox = _program("busybox")
    applets = [name for name in _output(busybox, "--list").split() if name != "busybox"]
    return KernelPackage(kernel, release, _balloon_module(release), busybox.read_bytes(), applets)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise GuestError(f"{name} is not installed; {INSTALL}")
    return Path(found)


def _output(program: Path, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise GuestError(f"{program} {option} says nothing; {INSTALL}")
    return done.stdout


def _balloon_module(release: str) -> bytes:
    tree = _MODULE_TREES / release
    for path in sorted(tree.rglob(f"{_MODULE}*")):
        unpack = _UNPACK.get(path.suffix)
        if unpack is None:
            raise GuestError(f"{path} is packed in a way that cannot be read here")
        try:
            return unpack(path.read_bytes())
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise GuestError(f"{path} cannot be read: {error}") from error
    raise GuestError(f"no {_MODULE} below {tree}; {INSTALL}")

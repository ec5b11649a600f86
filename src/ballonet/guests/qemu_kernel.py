"""Kernels for guests in QEMU: Debian's for clouds, unpacked under build/ or installed.

It is small, and has the balloons of all hypervisors that clouds run on.  Names no version: whatever
is there is used, the newest first.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["QemuKernel", "find_hyperv_kernel", "find_qemu_kernel", "find_vmware_kernel"]

_INSTALL: Final = "run: sh scripts/system-packages qemu"
_ROOTS: Final = (Path("build/kernel"), Path("/"))
_IMAGE: Final = "vmlinuz-"
#: What virtio's devices need, below drivers/, in the order they depend on each other.
_VIRTIO_MODULES: Final = (
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
)


@dataclass(frozen=True, slots=True)
class QemuKernel:
    """A kernel for QEMU and the modules a guest loads, in that order."""

    image: Path
    modules: tuple[Path, ...]

    @property
    def release(self) -> str:
        """What `uname -r` says in the guest."""
        return self.image.name.removeprefix(_IMAGE)


def find_qemu_kernel() -> QemuKernel:
    """The kernel for clouds, with virtio's balloon. Raises: GuestError."""
    return _find("*-cloud-amd64", (*_VIRTIO_MODULES, "virtio/virtio_balloon"))


def find_hyperv_kernel() -> QemuKernel:
    """The kernel for clouds, with Hyper-V's balloon and ports of virtio's. Raises: GuestError."""
    return _find("*-cloud-amd64", (*_VIRTIO_MODULES, "char/virtio_console", "hv/hv_balloon"))


def find_vmware_kernel() -> QemuKernel:
    """The kernel for clouds, with VMware's balloon. Raises: GuestError."""
    return _find("*-cloud-amd64", ("misc/vmw_vmci/vmw_vmci", "misc/vmw_balloon"))


def _find(release_pattern: str, modules: tuple[str, ...]) -> QemuKernel:
    if shutil.which("qemu-system-x86_64") is None:
        raise GuestError(f"qemu-system-x86_64 is not installed; {_INSTALL}")
    for root in _ROOTS:
        images = root.glob(f"boot/{_IMAGE}{release_pattern}")
        for image in sorted(images, key=_by_numbers, reverse=True):
            drivers = root / "lib/modules" / image.name.removeprefix(_IMAGE) / "kernel/drivers"
            found = tuple(drivers / f"{name}.ko" for name in modules)
            if all(module.exists() for module in found):
                return QemuKernel(image, found)
    what = modules[-1] if modules else release_pattern
    raise GuestError(f"no kernel for QEMU that has {what} is there; {_INSTALL}")


def _by_numbers(image: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", image.name)]

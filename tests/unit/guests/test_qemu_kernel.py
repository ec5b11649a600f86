"""Which of the kernels that are there is started in QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.errors import GuestError
from ballonet.guests.qemu_kernel import find_qemu_kernel, find_vmware_kernel

VIRTIO = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci")
MODULES = (
    *(f"virtio/{name}" for name in (*VIRTIO, "virtio_balloon")),
    *("misc/vmw_vmci/vmw_vmci", "misc/vmw_balloon"),
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and a QEMU."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def unpack(release: str, *left_out: str) -> None:
    """Have a kernel, and its modules but for some."""
    image = Path("build/kernel/boot") / f"vmlinuz-{release}"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.touch()
    for name in set(MODULES) - set(left_out):
        path = Path(f"build/kernel/lib/modules/{release}/kernel/drivers/{name}.ko")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_newest_is_taken_by_its_numbers() -> None:
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-10-cloud-amd64"):
        unpack(release)
    assert find_vmware_kernel().release == "6.1.0-56-cloud-amd64"
    assert find_qemu_kernel().release == "6.1.0-56-cloud-amd64"


def test_modules_come_in_the_order_they_depend_on_each_other() -> None:
    unpack("6.1.0-56-cloud-amd64")
    assert [path.name for path in find_vmware_kernel().modules] == [
        "vmw_vmci.ko",
        "vmw_balloon.ko",
    ]


def test_a_kernel_without_the_driver_is_passed_over() -> None:
    unpack("6.1.0-56-cloud-amd64")
    unpack("6.1.0-57-cloud-amd64", "misc/vmw_balloon")
    assert find_vmware_kernel().release == "6.1.0-56-cloud-amd64"


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ballonet.guests.qemu_kernel._ROOTS", (Path("build/kernel"),))
    with pytest.raises(GuestError, match=r"misc/vmw_balloon .*; run: sh scripts/system-packages"):
        find_vmware_kernel()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GuestError, match="qemu-system-x86_64 is not installed"):
        find_vmware_kernel()

"""When QEMU says that queue_enable is only supported in newer devices, and what it means."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.guests.qtest_machine import QtestMachine, QtestSettings, require_qemu
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.register_writes import (
    TRACE_ARGUMENTS,
    QueueEnabled,
    queues_enabled,
    register_writes,
)
from ballonet.qtest.pci import ModernPciTransport, find_pci_balloon

__all__ = ["EXPERIMENT"]

#: As QEMU spells it.
_WARNING: Final = "queue_enable is only suppported in devices of virtio 1.0 or later."
#: A compiler may store the rest elsewhere, never less than a word of it.
_IN_PROGRAM: Final = b"queue_enable is only suppported"
_MEMORY_BYTES: Final = 256 << 20
_PAGES: Final = 256
_DISK: Final = (
    *("-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on"),
    *("-device", "virtio-blk-pci,drive=disk"),
)
_COMMON: Final = "virtio-pci-common-virtio-"


class _EnablesFirst(ModernPciTransport):
    """Accepts features only when its queues are set up, as SeaBIOS once did with disks."""

    def accept(self, features: int) -> None:
        """Put it off."""
        self._late = features

    def driver_ok(self) -> None:
        """Make up for it."""
        super().accept(self._late)
        super().driver_ok()


def _on_qemu(notebook: Notebook) -> None:
    require_qemu()
    program = Path(shutil.which("qemu-system-x86_64") or "").read_bytes()
    has_warning = _IN_PROGRAM in program
    early, said, works = _provoke(notebook)
    notebook.see("the words are in this QEMU's program", has_warning)
    disk, balloon = _boot(notebook)
    notebook.table(
        "queues that were enabled, and whether VERSION_1 was accepted before",
        ("by", "device", "queue", "VERSION_1 before"),
        [
            *(("our driver, on purpose", "balloon", one, False) for one in range(early)),
            *_rows("the firmware", "disk", disk),
            *_rows("Linux", "balloon", balloon),
        ],
    )
    notebook.claim(
        "enabling a queue before VERSION_1 is accepted brings the warning, once for each queue, in"
        " a QEMU that has the words, and in no other",
        holds=said == (early if has_warning else 0),
    )
    notebook.claim("the device works all the same", holds=works and early > 0)
    notebook.claim(
        "Linux's balloon driver accepts VERSION_1 before it enables a queue",
        holds=bool(balloon) and all(one.has_version_1 for one in balloon),
    )
    notebook.claim(
        "the firmware leaves the balloon alone, and enables the disk's", holds=bool(disk)
    )
    notebook.conclude(
        f"{early} queues enabled too early brought {said} warnings from this QEMU, which"
        f" {'has' if has_warning else 'does not have'} the words, and the balloon worked; Linux"
        f" enabled its {len(balloon)} queues after it had accepted VERSION_1."
    )


def _provoke(notebook: Notebook) -> tuple[int, int, bool]:
    """Queues enabled too early, warnings, and whether the device works."""
    with QtestMachine(QtestSettings()) as machine:
        notebook.step("a driver enables a balloon's queues before it accepts any feature")
        machine.transport = _EnablesFirst(find_pci_balloon(machine.client))
        driver = machine.start_driver()
        machine.set_target(_PAGES)
        works = machine.run_until(lambda: driver.size.actual_pages == _PAGES)
        notebook.see("queues", len(driver.queues))
        notebook.block("what QEMU says", machine.complaints or "nothing")
        notebook.see("then its balloon has", driver.size.actual_pages, "pages")
        return len(driver.queues), machine.complaints.count(_WARNING), works


def _boot(notebook: Notebook) -> tuple[list[QueueEnabled], list[QueueEnabled]]:
    """Queues that a disk and a balloon had enabled while a real guest booted."""
    with QemuBalloonGuest(_MEMORY_BYTES, arguments=(*TRACE_ARGUMENTS, *_DISK)) as guest:
        notebook.runs_on(guest.release, "QEMU")
        notebook.step("a guest with a disk and a balloon boots, first its firmware, then Linux")
        path = guest.linux.directory / "writes"
        lines = path.read_text(errors="replace").splitlines()
    disk, balloon = (
        list(queues_enabled(register_writes(lines, f"{_COMMON}{name}")))
        for name in ("blk", "balloon")
    )
    return disk, balloon


def _rows(
    by: str, device: str, enabled: Sequence[QueueEnabled]
) -> list[tuple[str, str, int, bool]]:
    return [(by, device, one.queue, one.has_version_1) for one in enabled]


EXPERIMENT: Final = Experiment(
    name="queue-enable",
    question='What does "queue_enable is only suppported in devices of virtio 1.0 or later" mean?',
    answer="Somebody enabled a queue of a modern device before accepting VERSION_1; it was the"
    " firmware setting up a disk, it does no harm, and the balloon has nothing to do with it.",
    explanation="queue_enable is a register of the modern PCI interface. In November 2022, on the"
    " way to 7.2, QEMU began to complain when it is written while VERSION_1 is not accepted."
    " SeaBIOS did that for each disk, because it set up the queue first and settled features"
    " afterwards. Before 7.2 was released the complaint was taken out again (the test is a comment"
    " since), and SeaBIOS 1.16.1 accepts features first: so it is seen with a QEMU built from the"
    " sources of those weeks. A driver that uses the legacy interface cannot cause it: that has no"
    " such register.",
    sources=(
        "QEMU hw/virtio/virtio.c, virtio_queue_enable",
        "QEMU hw/virtio/virtio-pci.c, virtio_pci_common_write",
        "QEMU commit 3c37f8b8d1 (virtio: introduce virtio_queue_enable())",
        "SeaBIOS src/hw/virtio-blk.c, commit 'virtio: finalize features before using device'",
        "Virtio specification 1.3, sections 3.1.1 and 4.1.4.3 (queue_enable)",
    ),
    runs={Kernel.QEMU: _on_qemu},
)

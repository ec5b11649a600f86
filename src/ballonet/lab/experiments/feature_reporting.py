"""What VIRTIO_BALLOON_F_REPORTING changes."""

from __future__ import annotations

import time
from typing import Final

from ballonet.guests.ballooned import BalloonedGuest
from ballonet.lab.driver_guest import ask_device, driver_guest, observe_feature
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.units import format_bytes
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

#: Linux reports blocks of 4 MiB here, and only while 32 of them and more are free.
_MEMORY_BYTES: Final = 512 << 20
_FILE_MIB: Final = 96
#: Reporting begins two seconds after memory was freed.
_PATIENCE_S: Final = 5.0


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(
        notebook, Feature.MUST_TELL_HOST | Feature.PAGE_REPORTING, memory_bytes=_MEMORY_BYTES
    ) as machine:
        notebook.step("a guest with it uses memory, and frees it")
        observe_feature(notebook, machine, Feature.PAGE_REPORTING)
        queue_with = _has_queue(machine)
        with_it = machine.device.status().counters
    notebook.see("it has set up a queue for reports", queue_with)
    notebook.see("reported", with_it.reported_bytes, "bytes")
    with driver_guest(notebook, Feature.MUST_TELL_HOST) as machine:
        notebook.step("a guest without it uses memory, and frees it")
        guest = machine.guest
        guest.check(f"dd if=/dev/zero of=/tmp/fill bs=1M count={_FILE_MIB} && rm /tmp/fill")
        before_bytes = guest.host_memory_bytes()
        time.sleep(_PATIENCE_S)
        kept_bytes = guest.host_memory_bytes()
        queue_without = _has_queue(machine)
        without = machine.device.status().counters
    notebook.see("it has set up a queue for reports, without", queue_without)
    notebook.see("host memory when the file was removed", before_bytes, "bytes")
    notebook.see(f"host memory {_PATIENCE_S:.0f} s later", kept_bytes, "bytes")
    notebook.claim("the queue is there with it, and only with it", holds=queue_with > queue_without)
    notebook.claim(
        "without it nothing is reported, and the host gets nothing back",
        holds=without.reported_bytes == 0 and kept_bytes >= before_bytes,
    )
    notebook.claim(
        "with it the host gets memory back without a word to the guest",
        holds=with_it.discarded_bytes > 0 and with_it.inflate_messages == 0,
    )
    notebook.conclude(
        f"With it the guest reported {format_bytes(with_it.reported_bytes)} by itself and the host"
        f" dropped {format_bytes(with_it.discarded_bytes)}; without it the host kept all"
        f" {format_bytes(kept_bytes)}."
    )


def _has_queue(machine: BalloonedGuest) -> bool:
    return ask_device(machine, lambda balloon: balloon.queues.has(QueueRole.REPORTING))


EXPERIMENT: Final = Experiment(
    name="feature-reporting",
    question="What does VIRTIO_BALLOON_F_REPORTING change?",
    answer="With it memory that the guest frees goes back to the host by itself within seconds;"
    " without it the host has to ask for a balloon to get it.",
    explanation="Two seconds after a large block became free, the guest's kernel takes up to 32"
    " free blocks off its lists, the driver names them to the host, and when the host has answered"
    " they are free again. The guest never lacks them: they are not in the balloon, MemTotal does"
    " not change, and whoever touches one gets a page of zeros.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.7 (Free Page Reporting)",
        "Linux mm/page_reporting.c, page_reporting_process",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_free_page_report",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_handle_report",
    ),
    runs={Kernel.UML: _on_uml},
)

"""What VIRTIO_BALLOON_F_FREE_PAGE_HINT changes."""

from __future__ import annotations

from typing import Final

from ballonet.lab.driver_guest import ask_device, driver_guest, observe_feature
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

#: So much that little of it is in blocks of less than 4 MiB, which are not hinted.
_MEMORY_BYTES: Final = 512 << 20
_ANSWER_S: Final = 60.0


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(
        notebook, Feature.STATS_VQ | Feature.FREE_PAGE_HINT, memory_bytes=_MEMORY_BYTES
    ) as machine:
        notebook.step("a guest with it is asked which of its pages are free")
        observe_feature(notebook, machine, Feature.FREE_PAGE_HINT)
        queue_with = ask_device(machine, lambda balloon: balloon.queues.has(QueueRole.HINT))
        with_it = machine.device.status()
        inflated = machine.guest.vmstat()["balloon_inflate"]
    notebook.see("it has set up a queue for that", queue_with)
    notebook.see("pages in the balloon", inflated)
    with driver_guest(notebook, Feature.STATS_VQ) as machine:
        notebook.step("a guest without it is asked which of its pages are free")
        round_id = machine.device.hints.begin().result(_ANSWER_S)
        queue_without = ask_device(machine, lambda balloon: balloon.queues.has(QueueRole.HINT))
        without = machine.device.status()
    notebook.see("it has set up a queue for that, without", queue_without)
    notebook.claim("the queue is there with it, and only with it", holds=queue_with > queue_without)
    notebook.claim(
        "without it no round begins, and no page is hinted",
        holds=round_id is None and without.counters.hinted_pages == 0,
    )
    notebook.claim(
        "hinted pages are not in the balloon: neither side counts them there",
        holds=inflated == 0 and with_it.actual_pages == 0,
    )
    hinted = format_bytes(pages_to_bytes(with_it.counters.hinted_pages))
    notebook.conclude(
        f"With it the guest hinted {hinted} in {with_it.counters.hint_rounds} rounds, with nothing"
        " in the balloon; without it there is no queue for hints, and no round begins."
    )


EXPERIMENT: Final = Experiment(
    name="feature-free-page-hint",
    question="What does VIRTIO_BALLOON_F_FREE_PAGE_HINT change?",
    answer="With it a migration can ask the guest which of its pages are free, and need not send"
    " them; without it all memory that was ever written is sent.",
    explanation="The host publishes a number in free_page_hint_cmd_id. The driver answers with the"
    " number, takes one largest free block after the other from the allocator and names it on a"
    " queue of its own. It keeps the blocks until the host says DONE, but gives them up without a"
    " word when the guest needs memory: so a hint is only good together with a log of what was"
    " written since.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "Linux drivers/virtio/virtio_balloon.c, report_free_page_func, send_free_pages",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_free_page_hint_notify",
    ),
    runs={Kernel.UML: _on_uml},
)

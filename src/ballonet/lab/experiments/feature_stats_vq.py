"""What VIRTIO_BALLOON_F_STATS_VQ changes."""

from __future__ import annotations

from typing import Final

from ballonet.errors import GuestError
from ballonet.lab.driver_guest import ask_device, driver_guest, observe_feature
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

_WAIT_S: Final = 1.0


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(notebook, Feature.STATS_VQ) as machine:
        notebook.step("a guest with it is asked for its statistics")
        observe_feature(notebook, machine, Feature.STATS_VQ)
        queue_with = ask_device(machine, lambda balloon: balloon.queues.has(QueueRole.STATS))
        answers = machine.device.status().counters.stats_messages
    notebook.see("it has set up a queue for them", queue_with)
    with driver_guest(notebook, Feature.MUST_TELL_HOST) as machine:
        notebook.step("a guest without it is asked for its statistics")
        queue_without = ask_device(machine, lambda balloon: balloon.queues.has(QueueRole.STATS))
        try:
            machine.device.stats.read(_WAIT_S)
            why = ""
        except GuestError as error:
            why = str(error)
    notebook.see("it has set up a queue for them, without", queue_without)
    notebook.block("what the device says without it", why)
    notebook.claim("the queue is there with it, and only with it", holds=queue_with > queue_without)
    notebook.claim("without it there are no statistics", holds="did not accept STATS_VQ" in why)
    notebook.conclude(
        f"With it the guest had a statistics queue and sent {answers} samples, whose total is its"
        " MemTotal; without it there is no such queue, and nobody to ask."
    )


EXPERIMENT: Final = Experiment(
    name="feature-stats-vq",
    question="What does VIRTIO_BALLOON_F_STATS_VQ change?",
    answer="With it the guest has a queue on which the host can ask for figures about its memory;"
    " without it the host knows nothing but the balloon's size.",
    explanation="The driver puts one buffer with statistics into the queue. The device keeps it,"
    " and gives it back when it wants newer ones: that is the question, and the next buffer is the"
    " answer. QEMU always offers it, and asks as often as guest-stats-polling-interval says.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.3 (Memory Statistics)",
        "Linux drivers/virtio/virtio_balloon.c, stats_request, stats_handle_request",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_receive_stats, balloon_stats_poll_cb",
    ),
    runs={Kernel.UML: _on_uml},
)

"""What VIRTIO_BALLOON_F_MUST_TELL_HOST changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.balloon.facts import ChainDone, Discarded, Fact
from ballonet.lab.driver_guest import driver_guest, fill
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["EXPERIMENT"]

_PAGES: Final = bytes_to_pages(64 << 20)


@dataclass(slots=True)
class _Watch:
    """How far the host is behind whenever it answers a message; on the device's thread."""

    given_bytes: int = 0
    discarded_bytes: int = 0
    most_behind_bytes: int = 0

    def observe(self, fact: Fact) -> None:
        match fact:
            case ChainDone(QueueRole.INFLATE, pages):
                self.given_bytes += pages_to_bytes(pages)
                behind_bytes = self.given_bytes - self.discarded_bytes
                self.most_behind_bytes = max(self.most_behind_bytes, behind_bytes)
            case Discarded(_, discarded_bytes):
                self.discarded_bytes += discarded_bytes


@dataclass(frozen=True, slots=True)
class _Seen:
    most_behind_bytes: int
    taken_pages: int  #: out of the balloon, by the guest's kernel
    asked_pages: int  #: the same, by the messages that the device has had


def _on_uml(notebook: Notebook) -> None:
    with_it, without = _run(notebook, has_it=True), _run(notebook, has_it=False)
    notebook.claim(
        "without it everything was dropped before its message was answered",
        holds=without.most_behind_bytes == 0,
    )
    notebook.claim("with it the host may drop it later", holds=with_it.most_behind_bytes > 0)
    notebook.claim(
        "Linux asks for every page before it uses it again, with the feature and without",
        holds=all(one.taken_pages == one.asked_pages == _PAGES for one in (with_it, without)),
    )
    notebook.conclude(
        f"With it the device answered while up to {format_bytes(with_it.most_behind_bytes)} were"
        f" still to be dropped, without it never before all was; Linux asked for all"
        f" {_PAGES:,} pages in both cases."
    )


def _run(notebook: Notebook, *, has_it: bool) -> _Seen:
    watch = _Watch()
    offered = Feature.MUST_TELL_HOST if has_it else Feature(0)
    with driver_guest(notebook, offered) as machine:
        how = "with" if has_it else "without"
        notebook.step(
            f"a guest {how} it: its balloon becomes {_PAGES:,} pages big, and small again"
        )
        machine.device.subscribe(watch.observe, details=True)
        fill(machine, _PAGES)
        fill(machine, 0)
        seen = _Seen(
            watch.most_behind_bytes,
            machine.guest.vmstat()["balloon_deflate"],
            machine.device.status().counters.deflated_pages,
        )
    notebook.see("given and not dropped at an answer", seen.most_behind_bytes, "bytes")
    notebook.see("taken back by the kernel (balloon_deflate)", seen.taken_pages, "pages")
    notebook.see("asked for on the deflate queue", seen.asked_pages, "pages")
    return seen


EXPERIMENT: Final = Experiment(
    name="feature-must-tell-host",
    question="What does VIRTIO_BALLOON_F_MUST_TELL_HOST change?",
    answer="With it the host may drop a page of the balloon at any time until the guest has asked"
    " for it back; without it only until the message that gave the page is answered.",
    explanation="Linux behaves alike in both cases: leak_balloon sends every page on the deflate"
    " queue and waits for the answer before it frees them. So the bit binds the device: without it"
    " the guest might use a page again without a word, and whatever is dropped late could be in"
    " use. A device that has the bit answers first and drops many messages' pages together, which"
    " is how ours is faster; QEMU never offers it.",
    sources=(
        "Virtio specification 1.3, sections 5.5.3 and 5.5.6 (VIRTIO_BALLOON_F_MUST_TELL_HOST)",
        "Linux drivers/virtio/virtio_balloon.c, fill_balloon, leak_balloon, tell_host",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_get_features",
    ),
    runs={Kernel.UML: _on_uml},
)

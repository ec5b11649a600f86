"""What VIRTIO_BALLOON_F_DEFLATE_ON_OOM changes."""

from __future__ import annotations

from typing import Final

from ballonet.guests.virtio_evidence import OutOfMemory, run_out_of_memory
from ballonet.lab.driver_guest import driver_guest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature

__all__ = ["EXPERIMENT"]


def _on_uml(notebook: Notebook) -> None:
    with_it = _run(notebook, Feature.MUST_TELL_HOST | Feature.DEFLATE_ON_OOM, "with")
    without = _run(notebook, Feature.MUST_TELL_HOST, "without")
    notebook.claim(
        "with it the process gets its memory, and nobody is killed",
        holds=with_it.has_ended_well and not with_it.was_killed,
    )
    notebook.claim("with it the balloon becomes smaller", holds=with_it.taken_pages > 0)
    notebook.claim(
        "without it the kernel kills a process, which does not get its memory",
        holds=without.was_killed and not without.has_ended_well,
    )
    notebook.claim("without it the balloon stays as it is", holds=without.taken_pages == 0)
    notebook.conclude(
        f"With it the guest took {format_bytes(pages_to_bytes(with_it.taken_pages))} out of the"
        f" balloon for a process that needed {with_it.needed_mib} MiB; without it the balloon"
        f" kept its {format_bytes(pages_to_bytes(without.left_pages))}, and a process was killed."
    )


def _run(notebook: Notebook, offered: Feature, how: str) -> OutOfMemory:
    with driver_guest(notebook, offered) as machine:
        notebook.step(f"a guest {how} it: a process needs more than the balloon has left")
        found = run_out_of_memory(machine)
    notebook.see("the process needs", found.needed_mib << 20, "bytes")
    notebook.see("in the balloon before", found.pages, "pages")
    notebook.see("in the balloon then", found.left_pages, "pages")
    notebook.see("a process was killed", found.was_killed)
    return found


EXPERIMENT: Final = Experiment(
    name="feature-deflate-on-oom",
    question="What does VIRTIO_BALLOON_F_DEFLATE_ON_OOM change?",
    answer="With it a guest that runs out of memory takes pages out of the balloon before it would"
    " kill a process; without it it kills.",
    explanation="The driver asks to be told before the kernel chooses a victim"
    " (register_oom_notifier); each time it takes up to 256 pages back, and the allocation is"
    " tried again. The host's target stays: when it is announced again, the driver fills the"
    " balloon anew. A limit of a control group does not count: there the kernel kills as before."
    " MemTotal behaves differently, too: see mem-total.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (VIRTIO_BALLOON_F_DEFLATE_ON_OOM)",
        "Linux drivers/virtio/virtio_balloon.c, virtio_balloon_oom_notify",
        "Linux mm/oom_kill.c, out_of_memory",
    ),
    runs={Kernel.UML: _on_uml},
)

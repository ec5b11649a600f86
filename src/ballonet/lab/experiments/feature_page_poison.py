"""What VIRTIO_BALLOON_F_PAGE_POISON changes."""

from __future__ import annotations

from typing import Final

from ballonet.lab.driver_guest import driver_guest, observe_feature
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.virtio.features import Feature

__all__ = ["EXPERIMENT"]

_POISONING: Final = "init_on_free=1"
_OFFERED: Final = Feature.STATS_VQ | Feature.PAGE_REPORTING


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(notebook, _OFFERED | Feature.PAGE_POISON, _POISONING) as machine:
        notebook.step(f"a guest with {_POISONING} is offered PAGE_POISON and PAGE_REPORTING")
        observe_feature(notebook, machine, Feature.PAGE_POISON)
        with_it = machine.device.status()
    notebook.see("accepted", ", ".join(with_it.features))
    with driver_guest(notebook, _OFFERED, _POISONING) as machine:
        notebook.step("the same guest is offered PAGE_REPORTING alone")
        without = machine.device.status()
    notebook.see("accepted, without", ", ".join(without.features))
    notebook.claim(
        "with it the driver says what its free pages hold, and reports them",
        holds=with_it.poison_val == 0 and Feature.PAGE_REPORTING in with_it.negotiated,
    )
    notebook.claim(
        "without it the driver says nothing, and declines to report",
        holds=without.poison_val is None and Feature.PAGE_REPORTING not in without.negotiated,
    )
    notebook.conclude(
        f"With it the driver wrote poison_val {with_it.poison_val} and accepted PAGE_REPORTING;"
        " without it the same guest declined PAGE_REPORTING."
    )


EXPERIMENT: Final = Experiment(
    name="feature-page-poison",
    question="What does VIRTIO_BALLOON_F_PAGE_POISON change?",
    answer="With it a guest that fills its free pages with a value tells the host which value, and"
    " can report free pages; without it such a guest reports nothing.",
    explanation="A page that the host has dropped reads as zeros. A guest that relies on what its"
    " free pages hold must be able to say so: with poison_val 0 zeros are what it expects, with"
    " another value the host must not drop a reported page. A guest that relies on it and has no"
    " way to say so declines PAGE_REPORTING (virtballoon_validate); one that relies on nothing"
    " declines PAGE_POISON.",
    sources=(
        "Virtio specification 1.3, sections 5.5.6.6 and 5.5.6.7 (Page Poison, Free Page Reporting)",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_validate, virtballoon_probe",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_handle_report",
    ),
    runs={Kernel.UML: _on_uml},
)

"""Why VMware's driver is as long as it is: what it has to do, seen of it."""

from __future__ import annotations

from typing import Final

from ballonet.guests.vmware_evidence import vmware_witness
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 512 << 20
#: What is looked at, by the names of the observations, and what it shows.
_SHOWN: Final = {
    "basic": "it can tell of one page in each call",
    "batched-2m": "it can tell of many in one call, in another format, and has pages of two sizes",
    "doorbell": "nothing here tells it of a target: it asks again and again, by a timer",
    "refusal": "each page has a verdict, and one that is refused stays the guest's",
    "reset": "the host can have it forget everything, and it begins anew",
}
_CAPABILITIES: Final = ("basic", "batched-2m")


def _on_qemu(notebook: Notebook) -> None:
    with vmware_witness(_MEMORY_BYTES, tuple(_SHOWN)) as witness:
        notebook.runs_on(witness.release, "QEMU, which its kernel takes for VMware's")
        found = {}
        notebook.step("the real vmw_balloon meets a host of ours, a new one for each line")
        for one in witness.observe():
            notebook.see(one.name, one.evidence)
            found[one.name] = one
    for name, sentence in _SHOWN.items():
        notebook.claim(sentence, holds=found[name].observed)
    notebook.claim(
        "what the host can do it learns from the answer to its START",
        holds=all(found[name].negotiated for name in _CAPABILITIES),
    )
    notebook.conclude(
        f"It was seen to do {len(_SHOWN)} things that virtio's driver leaves to others or has no"
        f" need of. Refused pages: {found['refusal'].evidence}."
    )


EXPERIMENT: Final = Experiment(
    name="vmware-length",
    question="Why is VMware's balloon driver so long?",
    answer="Because the host may refuse every single page and may be able to do more or less, while"
    " no virtio core does the talking: verdicts, two page sizes, three formats of calls and polling"
    " are all in the driver itself.",
    explanation="Counted by `scripts/driver-lines` in the source of Linux 6.1 (`apt-get download"
    " linux-source-6.1`), vmw_balloon.c has 1,936 lines, 960 of them code; virtio_balloon.c has"
    " 1,136 and 758. Finding pages, giving, asking back and freeing them takes virtio's driver 146"
    " lines. VMware's needs 136 for that, and besides 83 for polling and for when to heed a"
    " target, 136 for calls in three formats, 95 for two sizes of pages, 61 for verdicts and 67"
    " for capabilities and beginning anew: 578, four times as many. Nothing tells it of a target"
    " unless there is a doorbell; a virtio device can change its configuration and interrupt. Its"
    " statistics (150) are for the guest's own debugfs. The other way round, 271 lines of virtio's"
    " driver are for statistics, hints, reporting and deflation on OOM, which VMware's has not.",
    sources=(
        "Linux drivers/misc/vmw_balloon.c, vmballoon_work, vmballoon_lock, vmballoon_send_start",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_size_func",
        "docs/siblings.md, which has the lines in tables",
    ),
    runs={Kernel.QEMU: _on_qemu},
)

"""What MADV_WILLNEED does with pages that a balloon gives back."""

from __future__ import annotations

import mmap
import os
import platform
from typing import Final, NamedTuple

from ballonet.errors import SystemCallError
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.memory_kinds import KINDS, SIZE_BYTES, Kind, made
from ballonet.lab.notebook import Notebook
from ballonet.units import format_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 192 << 20
_BALLOON_BYTES: Final = 64 << 20
#: Of what a guest has available, to touch nearly every page once.
_USED_PERCENT: Final = 90


class Look(NamedTuple):
    """What there is of a piece at one moment, in bytes."""

    held: int  #: by the host
    mapped: int  #: by this process
    blocks: int  #: of its file


class Course(NamedTuple):
    """One kind's."""

    hole: Look
    advised: Look
    touched: Look


def _on_host(notebook: Notebook) -> None:
    notebook.runs_on(os.uname().release, f"this machine, {platform.machine()}")
    seen: dict[Kind, Course] = {}
    for kind in KINDS:
        notebook.step(f"{kind.name}: written, freed, advised with MADV_WILLNEED, touched")
        try:
            seen[kind] = _follow(kind)
        except SystemCallError as error:
            notebook.see("left out", str(error))
    notebook.table(
        f"held by the host of {format_bytes(SIZE_BYTES)}, and mapped here",
        ("memory", "freed", "after WILLNEED", "mapped then", "after a touch of each page"),
        [
            (
                kind.name,
                *map(
                    format_bytes,
                    (one.hole.held, one.advised.held, one.advised.mapped, one.touched.held),
                ),
            )
            for kind, one in seen.items()
        ],
    )
    in_memory = [one for kind, one in seen.items() if not kind.is_on_disk]
    notebook.claim("the host had nothing left", holds=all(one.hole.held == 0 for one in in_memory))
    notebook.claim(
        "MADV_WILLNEED brings no page of memory, neither to the host's account nor to this process",
        holds=all(one.advised.held == one.advised.mapped == 0 for one in in_memory),
    )
    notebook.claim(
        "nor does a block of a file on disk come",
        holds=all(one.advised.blocks == one.hole.blocks for one in seen.values()),
    )
    notebook.claim(
        "a touch brings all of it back",
        holds=all(one.touched.held == SIZE_BYTES for one in in_memory),
    )
    came = sum(one.advised.held for one in in_memory)
    cached = sum(one.advised.held for kind, one in seen.items() if kind.is_on_disk)
    notebook.conclude(
        f"After MADV_WILLNEED on {len(in_memory)} kinds of memory the host held"
        f" {format_bytes(came)} of {format_bytes(SIZE_BYTES)} each, after a touch all of it; of a"
        f" file on disk {format_bytes(cached)} of zeros came into the page cache."
    )


def _follow(kind: Kind) -> Course:
    """Raises: SystemCallError."""
    with made(kind) as piece:

        def look() -> Look:
            return Look(piece.held_bytes(), piece.mapped_bytes(), piece.block_bytes())

        piece.free_all()
        hole = look()
        piece.mapping.madvise(mmap.MADV_WILLNEED)
        advised = look()
        piece.fill()
        return Course(hole, advised, look())


def _on_qemu(notebook: Notebook) -> None:
    with QemuBalloonGuest(_MEMORY_BYTES) as guest:
        notebook.runs_on(guest.release, "QEMU, with its own balloon")
        memory = guest.linux.memory
        guest.linux.populate()
        before = memory.held_bytes()
        notebook.step(f"the balloon takes {format_bytes(_BALLOON_BYTES)}")
        guest.resize(_BALLOON_BYTES)
        given = memory.held_bytes()
        notebook.step("it gives them back: QEMU calls madvise(WILLNEED) for each page")
        guest.resize(0)
        deflated = memory.held_bytes()
        notebook.step("the guest uses its memory")
        guest.shell.use_memory(_USED_PERCENT)
        used = memory.held_bytes()
    for name, value in (
        ("host memory before", before),
        ("with the balloon", given),
        ("after deflate", deflated),
        ("after the guest used it", used),
    ):
        notebook.see(name, value, "bytes")
    notebook.claim(
        "the host had got nearly all of the balloon",
        holds=before - given > _BALLOON_BYTES * 3 // 4,
    )
    notebook.claim(
        "deflate brings hardly any of it back", holds=deflated - given < _BALLOON_BYTES // 4
    )
    notebook.claim(
        "what brings it back is that the guest uses it",
        holds=used - deflated > _BALLOON_BYTES // 2,
    )
    notebook.conclude(
        f"Of {format_bytes(before - given)} that the host had got, deflate with MADV_WILLNEED"
        f" brought {format_bytes(deflated - given)} back, and use {format_bytes(used - deflated)}."
    )


EXPERIMENT: Final = Experiment(
    name="willneed",
    question="QEMU calls madvise(MADV_WILLNEED) when a page leaves the balloon: what is it for?",
    answer="For nothing, where guest memory is memory: a page that was dropped comes when the guest"
    " touches it for the first time, advice or not.",
    explanation="MADV_WILLNEED reads ahead what has another place: pages in swap, and contents of a"
    " file on disk. A page that was dropped is in neither, so there is nothing to read, and the"
    " kernel does not make an empty page for advice (MADV_POPULATE_WRITE does). It helps where a"
    " page could not be dropped when it was given and was swapped out meanwhile. With a file on"
    " disk it does harm: a hole there is read like anything else, so the page cache fills with"
    " zeros, and the host has spent the memory before the guest wants it. Otherwise deflate costs"
    " the host nothing, and the guest pays with one fault for each page, later.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device operation, deflateq)",
        "QEMU hw/virtio/virtio-balloon.c, balloon_deflate_page",
        "Linux mm/madvise.c, madvise_willneed, swapin_walk_pmd_entry, shmem_swapin_range",
    ),
    runs={Kernel.HOST: _on_host, Kernel.QEMU: _on_qemu},
)

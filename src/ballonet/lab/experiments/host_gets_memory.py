"""Whether the host gets what a guest gives, by what the guest's memory is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import Ballooned, BalloonedEmbeddedGuest, BalloonedGuest
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.guests.qemu_linux import FILE_BACKEND
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.guest_mapping import find_guest_mapping
from ballonet.lab.notebook import Notebook
from ballonet.units import bytes_to_pages, format_bytes
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 192 << 20
_BALLOON_BYTES: Final = 64 << 20
#: The balloon is made of pages that the kernel chooses; those that the guest never touched were
#: never the host's to hold.
_TOUCHED_BYTES: Final = _BALLOON_BYTES * 3 // 4
_USED_PERCENT: Final = 90
_STALLED_S: Final = 120.0
#: What QEMU's guests can have, and what the host's kernel makes of it.
_BACKENDS: Final = {
    "memory-backend-ram": "private anonymous",
    "memory-backend-ram,share=on": "shared anonymous",
    "memory-backend-memfd": "memfd",
    FILE_BACKEND: "file in memory",
}


class Course(NamedTuple):
    """What the host holds of one guest, in bytes."""

    before: int  #: when the guest has used its memory
    given: int  #: with the balloon
    again: int  #: when the balloon is empty, and the guest has used its memory again


def _follow(
    held: Callable[[], int], use: Callable[[int], None], resize: Callable[[int], None]
) -> Course:
    """`use` a part of its memory, in percent; `resize` the balloon, in bytes."""
    use(_USED_PERCENT)
    before = held()
    resize(_BALLOON_BYTES)
    given = held()
    resize(0)
    use(_USED_PERCENT)
    return Course(before, given, held())


def _on_qemu(notebook: Notebook) -> None:
    found: dict[str, Course] = {}
    for backend, kind in _BACKENDS.items():
        name = backend.partition(",mem-path")[0]
        notebook.step(f"a guest with {name} gives {format_bytes(_BALLOON_BYTES)}, and has it again")
        with QemuBalloonGuest(_MEMORY_BYTES, backend=backend) as guest:
            notebook.runs_on(guest.release, "QEMU, with its own balloon")
            pid = guest.linux.pid
            mapping = find_guest_mapping(pid, _MEMORY_BYTES)
            found[f"{name}: {kind}"] = _follow(
                partial(mapping.held_bytes, pid),
                guest.shell.use_memory,
                guest.resize,
            )
    _tell(notebook, found)


def _on_ours(
    notebook: Notebook,
    kind: str,
    machine: Ballooned[LinuxGuest] | Ballooned[EmbeddedGuest],
) -> None:
    def resize(balloon_bytes: int) -> None:
        result = machine.resize(bytes_to_pages(balloon_bytes), stalled_after_s=_STALLED_S)
        if not result.reached or result.waiting_bytes:
            raise GuestError(f"there is no balloon of {format_bytes(balloon_bytes)}")

    notebook.step(f"the guest gives {format_bytes(_BALLOON_BYTES)}, and has it again")
    course = _follow(machine.guest.host_memory_bytes, machine.guest.use_memory, resize)
    _tell(notebook, {kind: course})


def _on_uml(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | Feature.MUST_TELL_HOST)
    with BalloonedGuest(LinuxGuestSettings(_MEMORY_BYTES), settings) as machine:
        notebook.runs_on(machine.guest.release, "User-Mode Linux, with our balloon")
        _on_ours(notebook, "file in memory", machine)


def _on_embedded(notebook: Notebook) -> None:
    settings = BalloonSettings(RING_FEATURES | Feature.MUST_TELL_HOST)
    with BalloonedEmbeddedGuest(EmbeddedGuestSettings(_MEMORY_BYTES), settings) as machine:
        notebook.runs_on("", "our own kernel, with our balloon")
        _on_ours(notebook, "memfd", machine)


def _tell(notebook: Notebook, found: dict[str, Course]) -> None:
    notebook.table(
        "host memory behind the guest",
        ("its memory", "used", f"with {format_bytes(_BALLOON_BYTES)} given", "used again"),
        [(kind, *map(format_bytes, one)) for kind, one in found.items()],
    )
    courses = list(found.values())
    notebook.claim(
        "whatever the memory is, the host has got what the guest had touched of the balloon",
        holds=all(one.before - one.given >= _TOUCHED_BYTES for one in courses),
    )
    notebook.claim(
        "and no more than the guest gave",
        holds=all(one.before - one.given <= _BALLOON_BYTES * 5 // 4 for one in courses),
    )
    notebook.claim(
        "it comes back when the guest uses it again",
        holds=all(one.again - one.given >= _TOUCHED_BYTES for one in courses),
    )
    fell = ", ".join(
        f"{format_bytes(one.before - one.given)} ({kind.rpartition(': ')[2]})"
        for kind, one in found.items()
    )
    notebook.conclude(f"Of {format_bytes(_BALLOON_BYTES)} that the guest gave the host got {fell}.")


EXPERIMENT: Final = Experiment(
    name="host-gets-memory",
    question="Does the host really get the memory back, whatever the guest's memory is made of?",
    answer="Yes, for every kind of memory, as far as the guest had touched the pages;"
    " it comes back page by page when the guest uses them again.",
    explanation="The guest only names pages. It is the device that drops them, by the call that"
    " frees their kind: DONTNEED for private memory, REMOVE for shared memory without a file, a"
    " hole for a memfd or a file. A page that the guest had never touched was never there, and"
    " brings nothing. Memory that is locked, or that a device of the host reads (VFIO), stays"
    " where it is: QEMU answers the guest, and drops nothing.",
    sources=(
        "Virtio specification 1.3, section 5.5.6 (Device operation)",
        "QEMU hw/virtio/virtio-balloon.c, balloon_inflate_page, virtio_balloon_inhibited",
        "QEMU system/physmem.c, ram_block_discard_range",
        "Linux drivers/virtio/virtio_balloon.c, fill_balloon, leak_balloon",
    ),
    runs={Kernel.QEMU: _on_qemu, Kernel.UML: _on_uml, Kernel.EMBEDDED: _on_embedded},
)

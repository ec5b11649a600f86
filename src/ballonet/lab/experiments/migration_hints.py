"""How much less is sent of a guest that names what is free."""

from __future__ import annotations

from typing import Final

from ballonet.guests.guest_shell import GuestShell
from ballonet.guests.qemu import HINTING
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.moving_machines import KERNEL, begin_migration, finished_migration, machines
from ballonet.lab.notebook import Notebook
from ballonet.lab.qemu_migration import FAST, NOWHERE, SLOW, begin, set_bandwidth, wait_for
from ballonet.lab.waiting import wait_until
from ballonet.units import format_bytes, pages_to_bytes

__all__ = ["EXPERIMENT"]

_QEMU_BYTES: Final = 256 << 20
_OUR_BYTES: Final = 128 << 20
_STALE_BYTES: Final = 100 << 20
_KEPT_BYTES: Final = 16 << 20
#: Files of a disk in memory, full of something, and gone again.  A page here and there is still
#: used then, and a block that is not free as a whole is not hinted: so memory is compacted.
_USE_AND_FREE: Final = f"""mkdir -p /used && mount -t tmpfs -o size=100% tmpfs /used &&
until [ $(du -s /used | cut -f1) -ge {_STALE_BYTES >> 10} ]; do
    cat /bin/busybox /bin/busybox /bin/busybox /bin/busybox >> /used/file
done; umount /used; echo 1 > /proc/sys/vm/compact_memory"""
_DRIVER: Final = "/sys/bus/virtio/drivers/virtio_balloon"


def _on_qemu(notebook: Notebook) -> None:
    plain, hinted = _move_qemus(notebook)
    our_plain, our_hinted = _move_ours(notebook)
    notebook.conclude(
        f"QEMU sent {format_bytes(hinted)} with hints instead of {format_bytes(plain)}, ours"
        f" {format_bytes(our_hinted)} instead of {format_bytes(our_plain)}."
    )


def _on_embedded(notebook: Notebook) -> None:
    notebook.runs_on("", KERNEL)
    plain, hinted = _move_ours(notebook)
    notebook.conclude(
        f"{format_bytes(hinted)} were sent with hints instead of {format_bytes(plain)}."
    )


def _move_qemus(notebook: Notebook) -> tuple[int, int]:
    """Bytes sent without hints and with, of one guest that stays where it is."""
    # A kernel that clears what it allocates would make zeros of what it hints, and QEMU sends
    # hardly anything of those: the saving would not be the hints'.
    kernel = ("init_on_alloc=0",)
    with QemuBalloonGuest(_QEMU_BYTES, *HINTING, command_line=kernel) as guest:
        notebook.runs_on(guest.release, "QEMU")
        shell, monitor = guest.shell, guest.monitor
        notebook.step(
            f"QEMU's guest writes {format_bytes(_STALE_BYTES)} of files, removes them, compacts"
        )
        shell.check(_USE_AND_FREE, 300)
        notebook.step("without the balloon's driver it is migrated")
        name = shell.check(f"ls {_DRIVER} | grep virtio").strip()
        shell.check(f"echo {name} > {_DRIVER}/unbind")
        begin(monitor, NOWHERE, FAST)
        plain = int(wait_for(monitor, "completed")["ram"]["transferred"])
        notebook.see("sent without hints", plain, "bytes")
        monitor.execute("cont")
        notebook.step("with the driver it is migrated: slowly, until it holds what is free")
        shell.check(f"echo {name} > {_DRIVER}/bind")
        free = _free_bytes(shell)
        begin(monitor, NOWHERE, SLOW)
        wait_until(lambda: _free_bytes(shell) * 2 < free, "the guest hints nothing")
        notebook.see("free before", free, "bytes")
        notebook.see("free while it holds what it has hinted", _free_bytes(shell), "bytes")
        set_bandwidth(monitor, FAST)
        hinted = int(wait_for(monitor, "completed")["ram"]["transferred"])
        notebook.see("sent with hints", hinted, "bytes")
    notebook.claim(
        "QEMU sends less with hints, by half of what had been freed or more",
        holds=plain - hinted > _STALE_BYTES // 2,
    )
    return plain, hinted


def _free_bytes(shell: GuestShell) -> int:
    return shell.meminfo()["MemFree"]


def _move_ours(notebook: Notebook) -> tuple[int, int]:
    """The same of our own, which goes on from the second machine to the third."""
    with machines(3, _OUR_BYTES) as (_, (first, second, third)):
        notebook.step("a guest of ours uses most of its memory, frees it again, keeps a little")
        first.ask("use_memory", percent=90)
        first.ask("hog", size=_KEPT_BYTES)
        free = first.ask("meminfo")["MemFree"]
        notebook.see("free", free, "bytes")
        notebook.step("it moves without hints")
        begin_migration(first, second.uri, {"x-ballonet-hints": False}, {})
        plain = int(finished_migration(first)["ram"]["transferred"])
        notebook.see("sent without hints", plain, "bytes")
        notebook.step("it moves on with hints")
        head_start = {"x-ballonet-head-start": 60_000}
        begin_migration(second, third.uri, {"x-ballonet-hints": True}, head_start)
        ram = finished_migration(second)["ram"]
        hinted, left_out = int(ram["transferred"]), pages_to_bytes(int(ram["x-ballonet-hinted"]))
        notebook.see("sent with hints", hinted, "bytes")
        notebook.see("left out", left_out, "bytes")
        looked = third.ask("release_hogs")
    notebook.claim(
        "ours sends less with hints, by three quarters of what was free",
        holds=plain - hinted > free * 3 // 4,
    )
    notebook.claim("what the guest had kept is as it was, every page", holds=looked == 1)
    return plain, hinted


EXPERIMENT: Final = Experiment(
    name="migration-hints",
    question="What are free page hints worth in a migration?",
    answer="Free memory that once was used is not sent: what remains is what the guest really uses,"
    " and of a guest with much that is free that is a small part.",
    explanation="Without hints a migration cannot know what is free. It leaves out what the host"
    " never gave the guest, and sends pages full of zeros as a few bytes; but memory that a guest"
    " has used and freed holds old data, and is sent whole. With hints those pages are taken out"
    " of what is to be sent, if the hint comes before the page's turn. QEMU begins to send at"
    " once, so there it is a race, which is decided here by sending slowly at first; ours waits for"
    " a moment. The guest pays for it: while it moves, what it has named is not at hand.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.5 (Free Page Hinting)",
        "QEMU migration/ram.c, qemu_guest_free_page_hint, save_zero_page",
        "Linux drivers/virtio/virtio_balloon.c, send_free_pages",
    ),
    runs={Kernel.QEMU: _on_qemu, Kernel.EMBEDDED: _on_embedded},
)

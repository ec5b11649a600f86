"""A statistics buffer of a real guest, byte by byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ballonet.lab.driver_guest import ask_device, driver_guest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.lab.stats_dump import ENTRY_BYTES, DumpedEntry, as_dump, read_entries
from ballonet.units import format_bytes
from ballonet.virtio.features import Feature

__all__ = ["EXPERIMENT"]

_WAIT_S: Final = 60.0
_PAGE_BYTES: Final = 4096
#: What only grows: its name in /proc/vmstat, and bytes or events that one of it stands for.
_GROWING: Final = {
    "swap_in": ("pswpin", _PAGE_BYTES),
    "swap_out": ("pswpout", _PAGE_BYTES),
    "majflt": ("pgmajfault", 1),
    "minflt": ("pgfault", 1),
}


def _on_uml(notebook: Notebook) -> None:
    with driver_guest(notebook, Feature.STATS_VQ) as machine:
        notebook.step("/proc/vmstat is read, then statistics are asked for, then it is read again")
        before = machine.guest.vmstat()
        sample = machine.device.stats.read(_WAIT_S).sample
        after = machine.guest.vmstat()
        total_bytes = machine.guest.meminfo()["MemTotal"]
        raw = ask_device(machine, lambda balloon: balloon.statistics.raw)
    entries = read_entries(raw)
    notebook.block("the buffer as it came (offset, tag | value)", as_dump(raw, entries))
    notebook.see("its length", len(raw), "bytes")
    notebook.see("MemTotal of the guest", total_bytes, "bytes")
    values = {one.name: one.value for one in entries}
    notebook.claim(
        f"it is a list of entries of {ENTRY_BYTES} bytes, each tag once",
        holds=len(raw) == ENTRY_BYTES * len(entries) and len(values) == len(entries) > 0,
    )
    notebook.claim(
        "little-endian and packed, memtot is what /proc/meminfo calls MemTotal",
        holds=values.get("memtot") == total_bytes,
    )
    _claim_growing(notebook, entries, before, after)
    notebook.claim("the device has understood the same", holds=sample.values == values)
    notebook.conclude(
        f"{len(raw)} bytes are {len(entries)} statistics; memtot is"
        f" {format_bytes(values.get('memtot', 0))}, as in /proc/meminfo."
    )


def _claim_growing(
    notebook: Notebook,
    entries: Sequence[DumpedEntry],
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> None:
    """What was counted before the guest was asked and after it has the value in between."""
    rows = []
    for one in entries:
        if one.name in _GROWING:
            key, each = _GROWING[one.name]
            rows.append((one.name, key, before[key] * each, one.value, after[key] * each))
    notebook.table(
        "what only grows, beside /proc/vmstat",
        ("statistic", "in vmstat", "before", "in the buffer", "after"),
        rows,
    )
    notebook.claim(
        "faults and swapping lie between the two readings of /proc/vmstat",
        holds=len(rows) == len(_GROWING) and all(low <= it <= high for *_, low, it, high in rows),
    )


EXPERIMENT: Final = Experiment(
    name="stats-wire-format",
    question="In which format do the statistics travel?",
    answer="A buffer is a list of entries of 10 bytes without gaps, each a tag of 16 bits and a"
    " value of 64 bits, both little-endian.",
    explanation="The driver writes virtio_balloon_stat structures one after the other and makes"
    " the buffer exactly as long as they are: how many come is the driver's choice, and a device"
    " ignores tags that it does not know. Amounts are in bytes, whatever the guest's page size;"
    " minflt counts all page faults, major ones too. The specification's multiple of 6 bytes is"
    " an erratum.",
    sources=(
        "Virtio specification 1.3, section 5.5.6.3 (Memory Statistics)",
        "Linux drivers/virtio/virtio_balloon.c, update_balloon_stats, update_stat",
        "Linux include/uapi/linux/virtio_balloon.h, struct virtio_balloon_stat",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_receive_stats",
    ),
    runs={Kernel.UML: _on_uml},
)

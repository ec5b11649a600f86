"""Every kind of memory, dropped by a device in this process: over the kernel's own work alone.

No socket and no second process stand between: a driver's ring lies in the device's own memory, so
anonymous memory can be measured too.  Time is processor time of this thread.  Needs root, to let
shared memory have transparent huge pages meanwhile.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.memory.discard import MemoryKind
from ballonet.memory.fence import full_fence
from ballonet.memory.mapping import HUGE_BLOCK_BYTES, GuestMemory, MappedRegion
from ballonet.memory.regions import Region
from ballonet.memory.runs import Ranges, locate
from ballonet.runtime.system_clock import SystemClock
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature
from ballonet.virtio.ring.driver import RingPlace
from ballonet.virtio.ring.split import SplitAreas, SplitRing, split_area_bytes
from ballonet.virtio.ring.split_driver import SplitDriverRing
from bench.report import Ratio

__all__ = ["measure"]

Pfns = NDArray[np.int64]

ROUNDS = 5
_MEMORY_BYTES: Final = 512 << 20
_DATA_AT: Final = 2 << 20  #: the ring and its messages lie below
_RING: Final = 128
_MESSAGE_AT: Final = 1 << 20
_MESSAGE_PAGES: Final = 256
_FOR_EVER_NS: Final = 1 << 62
_HUGE_MEMFD: Final = "memfd of transparent huge pages"
_ANONYMOUS: Final = {
    kind.value.name: kind for kind in MemoryKind if kind is not MemoryKind.SHARED_FILE
}
_KINDS: Final = ("memfd", _HUGE_MEMFD, *_ANONYMOUS)
_SHMEM_ENABLED: Final = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def measure() -> Iterator[Ratio]:
    """Each kind, contiguous and scattered."""
    for kind in _KINDS:
        yield _over_floor(kind, "contiguous")
        yield _over_floor(kind, "scattered")
    for kind in _KINDS:
        yield _one_by_one(kind)
    yield _whole_blocks()


def _over_floor(kind: str, order: str) -> Ratio:
    ours: list[float] = []
    floor: list[float] = []
    for number in range(ROUNDS):
        pfns = _pages(order, number)
        with _mapped(kind) as region:
            ours.append(_by_device(region, pfns) / pfns.size * 1e6)
        with _mapped(kind) as region:
            floor.append(_at_once(region, pfns) / pfns.size * 1e6)
    return Ratio(
        f"processor time for a page, {kind}, {order}",
        "a device in this process",
        "the kernel alone, all the pages known beforehand",
        ours,
        floor,
        unit="µs",
    )


def _one_by_one(kind: str) -> Ratio:
    single: list[float] = []
    vectors: list[float] = []
    for number in range(ROUNDS):
        pfns = _pages("scattered", number)
        with _mapped(kind) as region:
            single.append(_in_single_calls(region, pfns) / pfns.size * 1e6)
        with _mapped(kind) as region:
            vectors.append(_at_once(region, pfns) / pfns.size * 1e6)
    return Ratio(
        f"processor time for a page, {kind}, scattered, the kernel alone",
        "a system call for each range",
        "many ranges in one call",
        single,
        vectors,
        unit="µs",
    )


def _whole_blocks() -> Ratio:
    """The same memory, dropped in messages' sizes and in the size of its huge pages."""
    halves: list[float] = []
    whole: list[float] = []
    pages = (_MEMORY_BYTES - _DATA_AT) // BALLOON_PAGE_BYTES
    for _ in range(ROUNDS):
        for samples, step in ((halves, HUGE_BLOCK_BYTES // 2), (whole, HUGE_BLOCK_BYTES)):
            with _mapped(_HUGE_MEMFD) as region:
                memory = GuestMemory([region])
                offsets = np.arange(_DATA_AT, _MEMORY_BYTES, step)
                begun_s = time.thread_time()
                for offset in offsets:
                    memory.discard(Ranges(0, np.array([offset]), np.array([step])))
                samples.append((time.thread_time() - begun_s) / pages * 1e6)
    return Ratio(
        f"processor time for a page, {_HUGE_MEMFD}, by the size of a piece",
        "half of a huge page at a time, a message of Linux",
        "a huge page at a time",
        halves,
        whole,
        unit="µs",
    )


def _pages(order: str, seed: int) -> Pfns:
    every = np.arange(_DATA_AT, _MEMORY_BYTES, BALLOON_PAGE_BYTES) // BALLOON_PAGE_BYTES
    if order == "contiguous":
        return every
    return np.random.default_rng(seed).permutation(every)[: every.size // 2]


@contextmanager
def _mapped(kind: str) -> Iterator[MappedRegion]:
    """Memory of a kind, every page touched."""
    region = Region(0, _MEMORY_BYTES, 1 << 40, 0)
    if kind.startswith("memfd"):
        fd = os.memfd_create("ballonet-bench", os.MFD_CLOEXEC)
        os.ftruncate(fd, _MEMORY_BYTES)
        if kind == _HUGE_MEMFD:
            _fill_with_huge_pages(fd)
        mapped = MappedRegion.from_fd(region, fd)
        os.close(fd)
    else:
        mapped = MappedRegion.anonymous(region, _ANONYMOUS[kind])
    np.frombuffer(mapped.view, np.uint8)[::BALLOON_PAGE_BYTES] = 1
    try:
        yield mapped
    finally:
        mapped.close()


def _fill_with_huge_pages(fd: int) -> None:
    before = _SHMEM_ENABLED.read_text().partition("[")[2].partition("]")[0]
    _SHMEM_ENABLED.write_text("advise")
    try:
        with mmap.mmap(fd, _MEMORY_BYTES) as whole:
            whole.madvise(mmap.MADV_HUGEPAGE)
            for at in range(0, _MEMORY_BYTES, BALLOON_PAGE_BYTES):
                whole[at] = 1
    finally:
        _SHMEM_ENABLED.write_text(before)


def _at_once(mapped: MappedRegion, pfns: Pfns) -> float:
    memory = GuestMemory([mapped])
    begun_s = time.thread_time()
    for ranges in locate(pfns.astype(np.uint32), memory.table).ranges:
        memory.discard(ranges)
    return time.thread_time() - begun_s


def _in_single_calls(mapped: MappedRegion, pfns: Pfns) -> float:
    mapped._takes_vectors = False  # noqa: SLF001 - as on a kernel that does not
    return _at_once(mapped, pfns)


def _by_device(mapped: MappedRegion, pfns: Pfns) -> float:
    """Seconds of a device that gets these pages in messages of 256, until all are dropped."""
    memory = GuestMemory([mapped])
    device = Balloon(BalloonSettings(), SystemClock())
    device.negotiate(Feature.VERSION_1 | Feature.MUST_TELL_HOST)
    device.connect(memory, _NoDriver())
    driver = _attach(device, memory)
    raw = pfns.astype("<u4").tobytes()
    message = memory.view(_MESSAGE_AT, 4 * _MESSAGE_PAGES)
    seconds = 0.0
    for at in range(0, len(raw), 4 * _MESSAGE_PAGES):
        part = raw[at : at + 4 * _MESSAGE_PAGES]
        message[: len(part)] = part
        driver.add([(_MESSAGE_AT, len(part))])
        driver.publish()
        begun_s = time.thread_time()
        device.process(0, _FOR_EVER_NS)
        seconds += time.thread_time() - begun_s
        driver.collect()
    begun_s = time.thread_time()
    device.inflation.flush()
    seconds += time.thread_time() - begun_s
    message.release()
    driver.release()
    device.detach(0)
    return seconds


class _NoDriver:
    """A `Transport` to a driver that looks without being called."""

    def call(self, queue: int) -> None:
        pass

    def config_changed(self) -> None:
        pass


def _attach(device: Balloon, memory: GuestMemory) -> SplitDriverRing:
    sizes = split_area_bytes(_RING)
    place = RingPlace(0, 64 << 10, 128 << 10)
    areas = SplitAreas(*(memory.view(at, size) for at, size in zip(place, sizes, strict=True)))
    np.frombuffer(memory.view(0, _DATA_AT), np.uint8)[:] = 0
    driver = SplitDriverRing(memory, place, _RING, full_fence, event_idx=False)
    ring = SplitRing(areas, memory, full_fence, base=0, event_idx=False, indirect=False)
    device.attach(0, ring)
    return driver

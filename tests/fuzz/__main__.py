"""Fuzz at length: ``python -m tests.fuzz --inputs 1000000 --jobs 2``.

Random guests before virtio's device, and random peers before both ends of its siblings.
Ends with exit code 1 at the first finding; its input stands in build/fuzz, and
``python -m tests.fuzz --replay FILE`` runs it again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import zlib
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import click
from tests.fuzz.hyperv_driver import HypervDriverFuzz
from tests.fuzz.hyperv_host import HypervHostFuzz
from tests.fuzz.machine import OFFERED, Setting
from tests.fuzz.setting import FuzzSetting
from tests.fuzz.vmware_driver import VmwareDriverFuzz
from tests.fuzz.vmware_host import VmwareHostFuzz
from tests.fuzz.worker import Tally, fuzz, load_corpus
from tests.property.ring_under_test import RingFormat

from ballonet.device.balloon import BalloonSettings

CORPUS = Path(__file__).with_name("corpus")
FINDINGS = Path("build/fuzz")
#: Growth of memory between the first and the last tenth of a run that counts as a leak.
LEAK_BYTES = 32 << 20

#: What runs, and its part of the inputs: virtio's device gets as many as are asked for with the
#: defaults, and the ends of its siblings as many together, those more that are faster.
RUNS: list[tuple[FuzzSetting, float]] = [
    *(
        (Setting(ring_format, balloon, hostile_deflates), share / len(RingFormat))
        for balloon, hostile_deflates, share in (
            (BalloonSettings(OFFERED), False, 1.0),
            (BalloonSettings(OFFERED), True, 0.25),
            (BalloonSettings(OFFERED, defers=False), False, 0.1),
        )
        for ring_format in RingFormat
    ),
    (VmwareHostFuzz(), 0.55),
    (VmwareDriverFuzz(), 0.05),
    (HypervHostFuzz(), 0.2),
    (HypervDriverFuzz(), 0.2),
]

Job = tuple[int, int, FuzzSetting, bool]


@click.command()
@click.option("--inputs", default=1_000_000, show_default=True)
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--only", default="", help="A word of the settings that run.")
@click.option("--replay", type=click.Path(exists=True, path_type=Path))
@click.option("--record", is_flag=True, help="Write inputs with new signatures to the corpus.")
def main(
    inputs: int, jobs: int, seed: int, only: str, replay: Path | None, *, record: bool
) -> None:
    """Run random guests against the device, and random peers against its siblings."""
    if replay is not None:
        _replay(replay)
        return
    begun = time.monotonic()
    work = [
        (round(inputs * share / jobs), seed * 1000 + job, setting, record)
        for setting, share in RUNS
        if only in str(setting)
        for job in range(jobs)
    ]
    total = sum(share for share, _, _, _ in work)
    done = multiprocessing.Value("q", 0)
    with multiprocessing.Pool(jobs, _start, (done,)) as pool:
        result = pool.map_async(_run, work, chunksize=1)
        while not result.ready():
            result.wait(5)
            rate = done.value / max(0.001, time.monotonic() - begun)
            click.echo(f"{done.value:,} of {total:,} inputs, {rate:,.0f}/s", err=True)
        tallies = result.get()
    sys.exit(_summary(work, tallies, time.monotonic() - begun))


_done: Synchronized[int]


def _start(done: Synchronized[int]) -> None:
    global _done  # noqa: PLW0603 - how a pool hands a shared value to its processes
    _done = done


def _run(job: Job) -> tuple[Tally, int, int]:
    """One share; its tally, and how much memory and how many descriptors it gained."""
    share, seed, setting, record = job
    early: list[Tally] = []
    counted = 0

    def report(tally: Tally) -> None:
        nonlocal counted
        with _done.get_lock():
            _done.value += tally.inputs - counted
        counted = tally.inputs
        if not early and tally.inputs >= share // 10:
            early.append(Tally(rss_bytes=tally.rss_bytes, fds=tally.fds))

    tally, kept = fuzz(load_corpus(CORPUS), share, seed, setting, report)
    if record:
        for raw in kept:
            name = f"{setting}-{seed}-{zlib.crc32(raw):08x}.bin"
            (CORPUS / name).write_bytes(raw)
    if tally.finding:
        FINDINGS.mkdir(parents=True, exist_ok=True)
        path = FINDINGS / f"{setting}-{seed}.bin"
        path.write_bytes(tally.failing)
        click.echo(f"FINDING, {setting}: {tally.finding}; written to {path}", err=True)
    first = early[0] if early else tally
    return tally, tally.rss_bytes - first.rss_bytes, tally.fds - first.fds


def _summary(work: list[Job], results: list[tuple[Tally, int, int]], seconds: float) -> int:
    inputs = sum(tally.inputs for tally, _, _ in results)
    signatures: set[int] = set().union(*(tally.signatures for tally, _, _ in results))
    slowest_ms = max(tally.slowest_s for tally, _, _ in results) * 1000
    grown = max(growth for _, growth, _ in results)
    for setting, _ in RUNS:
        done = sum(
            tally.inputs
            for (_, _, one, _), (tally, _, _) in zip(work, results, strict=True)
            if one == setting
        )
        click.echo(f"{setting}: {done:,} inputs")
    click.echo(
        f"{inputs:,} inputs in {seconds:.0f} s, {len(signatures)} signatures, slowest"
        f" {slowest_ms:.0f} ms, memory grew by {grown / 2**20:.1f} MiB at most"
    )
    findings = [tally.finding for tally, _, _ in results if tally.finding]
    if grown > LEAK_BYTES or any(fds for _, _, fds in results):
        findings.append("memory or descriptors leak")
    for finding in findings:
        click.echo(f"FINDING: {finding}; inputs are in {FINDINGS}")
    return 1 if findings else 0


def _replay(path: Path) -> None:
    for setting, _ in RUNS:
        with setting.ready() as run:
            click.echo(f"{setting}: {sorted(run(path.read_bytes()))}")


if __name__ == "__main__":
    main()

"""One process's share of a fuzz run.

Guided by signatures: what was done for an input (kinds of effects and events, counters that
moved, the words of a broken ring).  An input with a new signature is kept and mutated further.
"""

from __future__ import annotations

import random
import resource
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutate import fresh, mutate
from tests.fuzz.setting import FindingError, FuzzSetting

SLOW_S = 1.0  #: of processor time: a busy machine is nobody's fault
_FRESH_SHARE = 0.05
_REPORT_EVERY = 500
_KEPT_MAX = 2000


@dataclass
class Tally:
    """What a worker has done so far."""

    inputs: int = 0
    slowest_s: float = 0.0
    rss_bytes: int = 0
    fds: int = 0
    signatures: set[int] = field(default_factory=set)  #: as checksums, to stay small
    finding: str = ""
    failing: bytes = b""


def load_corpus(folder: Path) -> list[bytes]:
    """The recorded inputs, by name."""
    return [path.read_bytes() for path in sorted(folder.glob("*.bin"))]


def fuzz(
    corpus: Sequence[bytes],
    inputs: int,
    seed: int,
    setting: FuzzSetting,
    report: Callable[[Tally], None] = lambda _: None,
) -> tuple[Tally, list[bytes]]:
    """Run the corpus, then mutations of it; stops at a finding. Returns what was kept, too."""
    rng = random.Random(seed)  # noqa: S311 - runs are to be repeatable
    tally, kept = Tally(), list(corpus)
    with setting.ready() as run:
        for number in range(inputs):
            raw = _choose(number, corpus, kept, rng)
            begun = time.process_time()  # a busy machine is no finding
            try:
                signature = _checksum(run(raw))
            except FindingError as error:
                tally.finding, tally.failing = str(error), raw
                break
            seconds = time.process_time() - begun
            tally.inputs += 1
            tally.slowest_s = max(tally.slowest_s, seconds)
            if seconds > SLOW_S:
                tally.finding, tally.failing = f"took {seconds:.2f} s", raw
                break
            if signature not in tally.signatures:
                tally.signatures.add(signature)
                _keep(kept, raw, rng)
            if number % _REPORT_EVERY == 0:
                _measure(tally)
                report(tally)
        _measure(tally)  # while the world is there, as all the times before
    report(tally)
    return tally, kept[len(corpus) :]


def _checksum(signature: frozenset[str]) -> int:
    return zlib.crc32("|".join(sorted(signature)).encode())


def _keep(kept: list[bytes], raw: bytes, rng: random.Random) -> None:
    """Remember an input; of too many one is forgotten, or this program would seem to leak."""
    if len(kept) < _KEPT_MAX:
        kept.append(raw)
    else:
        kept[rng.randrange(len(kept))] = raw


def _choose(
    number: int, corpus: Sequence[bytes], kept: Sequence[bytes], rng: random.Random
) -> bytes:
    if number < len(corpus):
        return corpus[number]
    if not kept or rng.random() < _FRESH_SHARE:
        return fresh(rng)
    return mutate(rng.choice(kept), kept, rng)


def _measure(tally: Tally) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    tally.rss_bytes = pages * resource.getpagesize()
    tally.fds = len(list(Path("/proc/self/fd").iterdir()))

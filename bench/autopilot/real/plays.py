"""Play real kernels under every law: `python -m bench autopilot [--seeds 3] [--first 701]`.

Needs root (a memory cgroup), gcc and a quiet machine; a play takes two minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from bench.autopilot.real.figures import Outcome
from bench.autopilot.real.play import REAL_LAWS, play

RESULTS = Path("build/autopilot.jsonl")


def main(words: Sequence[str]) -> None:
    """Medians over the seeds, a row for each law; every play is kept as a line of JSON."""
    options = argparse.ArgumentParser(prog="bench autopilot", description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--first", type=int, default=701, help="the first seed")
    options.add_argument("--seconds", type=float, default=75.0)
    options.add_argument(
        "--qemu", type=int, default=0, help="so many guests of QEMU beside the six"
    )
    options.add_argument("--law", action="append", choices=list(REAL_LAWS))
    wanted = options.parse_args(words)
    laws = wanted.law or list(REAL_LAWS)
    found: dict[str, list[Outcome]] = defaultdict(list)
    RESULTS.parent.mkdir(exist_ok=True)
    for seed in range(wanted.first, wanted.first + wanted.seeds):
        for name in laws:  # in turns, so that a busy minute is everybody's
            record = RESULTS.with_name(f"autopilot-{seed}-{name.replace(' ', '-')}.jsonl")
            outcome = play(name, seed, wanted.seconds, wanted.qemu, record)
            found[name].append(outcome)
            line = {"seed": seed, "law": name, "qemus": wanted.qemu, **asdict(outcome)}
            print(json.dumps(line), flush=True)
            with RESULTS.open("a") as results:
                results.write(json.dumps(line) + "\n")
    names = [one.name for one in fields(Outcome)]
    print("| law | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for name in laws:
        cells = [_cell([getattr(one, field) for one in found[name]]) for field in names]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _cell(values: list[float | int | str]) -> str:
    if isinstance(values[0], str):
        return " ".join(str(one) for one in values)
    return f"{statistics.median(float(one) for one in values):.4g}"

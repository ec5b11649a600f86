"""Pictures of what was measured: `python -m bench.plots`, from build/bench.json to docs/plots.

Needs matplotlib, which `make plots` installs.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.__main__ import RESULTS

__all__ = ["main"]

PLOTS: Final = Path("docs/plots")
_OURS, _BASE, _GOAL = "#1b6ca8", "#b0b7bf", "#c0392b"

Found = dict[str, dict[str, Any]]


def main() -> None:
    """Draw everything. Raises: OSError, if nothing was measured."""
    mpl.rcParams |= {"svg.hashsalt": "ballonet", "font.size": 9, "axes.spines.top": False}
    mpl.rcParams["axes.spines.right"] = False
    found: Found = json.loads(RESULTS.read_text())
    PLOTS.mkdir(parents=True, exist_ok=True)
    _goals(found)
    _kinds(found)
    _density(found)


def _goals(found: Found) -> None:
    """Each ratio that has a goal, every sample over the base's median."""
    rows = [one for one in found.values() if one.get("goal") and "ratio" in one]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(rows) + 1))
    for place, row in enumerate(reversed(rows)):
        base = median(row["base_samples"])
        axes.barh(place, row["ratio"], height=0.55, color=_OURS)
        axes.plot(
            [sample / base for sample in row["subject_samples"]],
            [place] * len(row["subject_samples"]),
            "|",
            color="black",
            markersize=7,
        )
        axes.plot([row["goal"]] * 2, [place - 0.4, place + 0.4], color=_GOAL, linewidth=2)
    axes.set_yticks(range(len(rows)), [_short(row["name"]) for row in reversed(rows)])
    axes.set_xlabel("times the base; strokes: runs; red: goal")
    _save(figure, "goals")


def _kinds(found: Found) -> None:
    """Processor time for a page, by kind of memory."""
    wanted = "the kernel alone, all the pages known beforehand"
    rows = [one for one in found.values() if one.get("base") == wanted]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1))
    for place, row in enumerate(reversed(rows)):
        axes.barh(place, median(row["subject_samples"]), height=0.6, color=_OURS)
        axes.barh(place, median(row["base_samples"]), height=0.6, color=_BASE)
    names = [_short(row["name"]).removeprefix("processor time for a page, ") for row in rows]
    axes.set_yticks(range(len(rows)), reversed(names))
    axes.set_xlabel("µs of processor time for a page of 4 KiB; grey: the kernel alone")
    _save(figure, "kinds")


def _density(found: Found) -> None:
    """What many guests cost."""
    memory = {_guests(name): one for name, one in found.items() if ": private memory of" in name}
    latency = {_guests(name): one for name, one in found.items() if "256 pages, p99" in name}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(list(memory), [one["value"] / 1024 for one in memory.values()], "o-", color=_OURS)
    left.set_ylabel("private memory of each worker, MiB")
    latency = {guests: one for guests, one in latency.items() if guests in memory}
    right.plot(list(latency), [one["value"] for one in latency.values()], "o-", color=_OURS)
    for guests, one in latency.items():
        right.plot([guests] * len(one["samples"]), one["samples"], "_", color="black")
    right.set_ylabel("inflate of 256 pages, p99, ms")
    right.set_ylim(bottom=0)
    right.set_xscale("log")
    for axes in (left, right):
        axes.set_xlabel("guests of one `ballonet host`")
    _save(figure, "density")


def _guests(name: str) -> int:
    first = name.removeprefix("f. ").partition(" ")[0]
    return int(first) if first.isdigit() else 0


def _short(name: str) -> str:
    """At most two lines."""
    if len(name) <= 60:
        return name
    at = name.rfind(" ", 0, len(name) // 2 + 10)
    return f"{name[:at]}\n{name[at + 1 :]}"


def _save(figure: Any, name: str) -> None:  # noqa: ANN401 - matplotlib has no types
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    print(f"written to {PLOTS / name}.svg")


if __name__ == "__main__":
    main()

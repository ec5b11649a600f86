"""A measured ratio, as people and as programs read it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

__all__ = ["Figure", "Ratio", "machine", "write_json"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A subject over its base: medians of samples taken in turns.

    What else a machine does only ever adds, so the smallest samples are the least disturbed; their
    ratio stands beside.
    """

    name: str
    subject: str
    base: str
    subject_samples: list[float]
    base_samples: list[float]
    unit: str = "s"
    goal: float | None = None  #: the ratio should not be above

    @property
    def ratio(self) -> float:
        """How many times more the subject takes, median over median."""
        return median(self.subject_samples) / median(self.base_samples)

    @property
    def least(self) -> float:
        """The same of the smallest samples."""
        return min(self.subject_samples) / min(self.base_samples)

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = [(self.subject, self.subject_samples), (self.base, self.base_samples)]
        width = max(len(label) for label, _ in rows)
        goal = "" if self.goal is None else f"  (goal: at most {self.goal})"
        return [
            self.name,
            *(
                f"  {label:{width}}  {median(samples):.3f} {self.unit}"
                f"  (median of {', '.join(f'{sample:.3f}' for sample in sorted(samples))})"
                for label, samples in rows
            ),
            f"  {'ratio':{width}}  {self.ratio:.2f}, of the least {self.least:.2f}{goal}",
        ]

    def as_fields(self) -> dict[str, object]:
        """What a program reads."""
        return {"ratio": round(self.ratio, 3), "least": round(self.least, 3)} | asdict(self)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number by itself, with what it should not be above."""

    name: str
    samples: list[float]
    unit: str
    goal: float | None = None

    def lines(self) -> list[str]:
        """What a person reads."""
        goal = "" if self.goal is None else f"  (goal: at most {self.goal:g})"
        listed = ", ".join(f"{sample:.4g}" for sample in sorted(self.samples))
        return [self.name, f"  {median(self.samples):.4g} {self.unit}  (median of {listed}){goal}"]

    def as_fields(self) -> dict[str, object]:
        """What a program reads."""
        return {"value": median(self.samples)} | asdict(self)


def machine() -> dict[str, str | int | None]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def write_json(found: list[Ratio | Figure], path: Path) -> None:
    """Name -> figure, samples, machine."""
    here = machine()
    figures = {one.name: one.as_fields() | {"machine": here} for one in found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")

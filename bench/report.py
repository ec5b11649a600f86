"""A measured ratio, as people and as programs read it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Ratio", "machine", "write_json"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Seconds of a subject over seconds of its base, the fastest of samples taken in turns.

    Whatever else a machine does only ever adds time, so the fastest sample is the least disturbed.
    """

    name: str
    subject: str
    base: str
    subject_seconds: list[float]
    base_seconds: list[float]

    @property
    def ratio(self) -> float:
        """How many times longer the subject takes."""
        return min(self.subject_seconds) / min(self.base_seconds)

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = [(self.subject, self.subject_seconds), (self.base, self.base_seconds)]
        width = max(len(label) for label, _ in rows)
        return [
            self.name,
            *(
                f"  {label:{width}}  {min(samples):.3f} s"
                f"  (fastest of {', '.join(f'{sample:.3f}' for sample in samples)})"
                for label, samples in rows
            ),
            f"  {'ratio':{width}}  {self.ratio:.2f}",
        ]


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


def write_json(ratios: list[Ratio], path: Path) -> None:
    """Name -> ratio, samples, machine."""
    here = machine()
    figures = {
        ratio.name: {"ratio": round(ratio.ratio, 3), "samples": asdict(ratio), "machine": here}
        for ratio in ratios
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")

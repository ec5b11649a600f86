"""`make bench`: every measurement, printed and written to build/bench.json."""

from __future__ import annotations

from pathlib import Path

from bench import inflate, monitor
from bench.report import machine, write_json

RESULTS = Path("build/bench.json")


def main() -> None:
    """Measure everything."""
    here = machine()
    print(f"on {here['processor']}, {here['cores']} cores, Linux {here['kernel']}")
    ratios = [inflate.measure(), monitor.measure()]
    for ratio in ratios:
        print("\n".join(ratio.lines()))
    write_json(ratios, RESULTS)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()

"""Play scenes under every law: `python -m bench.autopilot.model [--seeds 5] [--guests 6]`."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import fields

from ballonet.autopilot.settings import Settings
from bench.autopilot.laws import LAWS, Ours
from bench.autopilot.model.fleet import Fleet, Outcome, Scene, run
from bench.autopilot.model.guest import Faults


def main() -> None:
    """Medians over the seeds, a row for each law."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--guests", type=int, default=6)
    options.add_argument("--mib", type=int, default=384, help="memory of each guest")
    options.add_argument("--budget", type=float, default=0.5, help="share of it")
    options.add_argument("--seconds", type=float, default=75.0)
    options.add_argument("--law", action="append", choices=list(LAWS))
    options.add_argument("--deflate-on-oom", action="store_true", help="every guest may")
    options.add_argument("--newest-tags", action="store_true", help="as Linux 6.12 sends them")
    options.add_argument("--say", action="store_true", help="every change of the first seed's play")
    wanted = options.parse_args()
    if wanted.say:
        _say(_scene(wanted.first, wanted))
        return
    names = [one.name for one in fields(Outcome)]
    print("| law | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for name in wanted.law or LAWS:
        outcomes = []
        for seed in range(wanted.first, wanted.first + wanted.seeds):
            scene = _scene(seed, wanted)
            outcomes.append(run(scene, LAWS[name](scene)))
        cells = [_cell([getattr(one, field) for one in outcomes]) for field in names]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _say(scene: Scene) -> None:
    """What the autopilot does, and why."""
    law, said = Ours(Settings(reserve_bytes=scene.reserve_bytes)), [-1.0]

    def watch(_fleet: Fleet) -> None:
        if law.last is None or law.last.state.at_s == said[0]:
            return
        said[0] = law.last.state.at_s or 0.0
        for change in law.last.changes:
            print(f"{said[0]:5.1f} s  {change}")

    print(run(scene, law, watch))


def _scene(seed: int, wanted: argparse.Namespace) -> Scene:
    faults = Faults(deflates_on_oom=wanted.deflate_on_oom)
    return Scene(
        seed,
        wanted.guests,
        wanted.mib << 20,
        wanted.budget,
        wanted.seconds,
        faults=dict.fromkeys(range(wanted.guests), faults),
        newest_tags=wanted.newest_tags,
    )


def _cell(values: list[float | int | str]) -> str:
    if isinstance(values[0], str):
        return " ".join(str(one) for one in values)
    numbers = [float(one) for one in values if not isinstance(one, str)]
    return f"{statistics.median(numbers):.4g}"


if __name__ == "__main__":
    main()

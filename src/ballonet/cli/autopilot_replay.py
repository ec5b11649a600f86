"""`ballonet autopilot replay`: recorded rounds through the law again, perhaps by other settings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ballonet.autopilot.law import Step, steps
from ballonet.autopilot.recording import decision_line, replay_rounds
from ballonet.autopilot.settings import Mode, Settings
from ballonet.cli.autopilot_picture import Track, as_svg
from ballonet.cli.monitor_client import JSON_OPTION
from ballonet.cli.size import SizeType
from ballonet.units import format_bytes

__all__ = ["replay"]

_SIZE: Final = SizeType(0, 1 << 62)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mode", type=click.Choice([one.value for one in Mode]), default="return")
@click.option("--reserve", "reserve_bytes", type=_SIZE, help="What the host keeps.")
@click.option("--budget", "budget_bytes", type=_SIZE, help="What all machines may keep together.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw what each machine used, needed, kept and was to keep (SVG).",
)
@click.option("--say", is_flag=True, help="Print every decision.")
@JSON_OPTION
def replay(
    file: Path,
    mode: str,
    reserve_bytes: int | None,
    budget_bytes: int | None,
    picture: Path | None,
    *,
    say: bool,
    as_json: bool,
) -> None:
    """Decide again for the rounds of FILE, which `record_rounds = true` has the agent write.

    What the machines did then does not follow what is decided now, so this is what would have been
    decided in each of these moments.
    """
    settings = Settings(Mode(mode), reserve_bytes, budget_bytes, is_dry_run=True)
    decided = list(_steps(file, settings))
    if not decided:
        raise click.ClickException(f"{file} has no rounds: `record_rounds = true` has them written")
    begun_s = decided[0].state.at_s or 0.0
    for one in decided if say else ():
        for verdict in one.changes:
            when_s = verdict.at_s - begun_s
            click.echo(decision_line(verdict) if as_json else f"{when_s:8.1f} s  {verdict}")
    if picture is not None:
        tracks = tracks_of(decided)
        picture.write_text(as_svg(f"{file.name}: {len(tracks)} machines", tracks))
    figures = figures_of(decided)
    if as_json:
        click.echo(json.dumps(figures))
        return
    for line in _lines(figures):
        click.echo(line)


def _steps(file: Path, settings: Settings) -> Iterator[Step]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        yield from steps(replay_rounds(lines), settings)


def figures_of(decided: Sequence[Step]) -> dict[str, Any]:
    """What all rounds together show."""
    seconds = (decided[-1].state.at_s or 0.0) - (decided[0].state.at_s or 0.0)
    reasons = Counter(one.reason.name.lower() for step in decided for one in step.changes)
    alarms = Counter(one.kind.value for step in decided for one in step.alarms)
    lacks = [sum(step.plan.lacks.values()) for step in decided]
    return {
        "rounds": len(decided),
        "seconds": round(seconds, 3),
        "machines": len({vm for step in decided for vm in step.standings}),
        "decisions": dict(reasons.most_common()),
        "rounds_with_alarm": dict(alarms.most_common()),
        "rounds_in_which_some_lack": sum(bool(one) for one in lacks),
        "most_lacking_bytes": max(lacks),
        "least_free_bytes": min(step.budget.free_bytes for step in decided),
    }


def tracks_of(decided: Sequence[Step]) -> list[Track]:
    """What is drawn of each machine."""
    begun_s = decided[0].state.at_s or 0.0
    tracks: dict[str, Track] = {}
    for step in decided:
        at_s = (step.state.at_s or 0.0) - begun_s
        wanted = {one.vm: one.to_bytes for one in step.verdicts}
        for vm, one in step.standings.items():
            known = one.record.estimate
            track = tracks.setdefault(vm, Track(vm, []))
            track.points.append(
                (
                    at_s,
                    {
                        "used": None if known is None else known.used_bytes,
                        "needs": None if known is None else one.need.cache_bytes,
                        "keeps": one.record.sizes.actual_bytes,
                        "asked for": wanted.get(vm),
                    },
                )
            )
    return [tracks[vm] for vm in sorted(tracks)]


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{figures['rounds']} rounds in {figures['seconds']:.0f} s, {figures['machines']} machines"
    )
    for title, key in (("decisions", "decisions"), ("rounds with alarm", "rounds_with_alarm")):
        counts = ", ".join(f"{count} {name}" for name, count in figures[key].items())
        yield f"{title}: {counts or 'none'}"
    yield (
        f"in {figures['rounds_in_which_some_lack']} rounds some lacked memory, at most"
        f" {format_bytes(figures['most_lacking_bytes'])}; least free:"
        f" {format_bytes(figures['least_free_bytes'])}"
    )

"""`ballonet trace`: a recorded conversation, in words."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ballonet.trace.reader import Line, fold, read_trace
from ballonet.trace.sequence_diagram import sequence_diagram
from ballonet.trace.tracks import Track

__all__ = ["trace"]

_SPEAKERS = {
    Track.HOST: "host → device",
    Track.SOCKET: "VMM → device",
    Track.CONFIG: "configuration",
    Track.DISCARD: "device → host",
    Track.DEVICE: "device",
}


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help="Show every event, not runs as one.")
@click.option(
    "--queue",
    type=click.Choice([track.name.lower() for track in Track]),
    help="Only this queue or party.",
)
@click.option("--since", "since_s", type=float, default=0.0, help="From this second on.")
@click.option("--until", "until_s", type=float, help="Up to this second.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--svg",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw it as a sequence diagram into this file instead.",
)
def trace(
    path: Path,
    *,
    show_all: bool,
    queue: str | None,
    since_s: float,
    until_s: float | None,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Print the conversation that `ballonet device --trace FILE` has recorded.

    The file itself opens in the Perfetto UI and in chrome://tracing.
    """
    chosen = (
        line
        for line in read_trace(path)
        if (queue is None or line.track.name.lower() == queue)
        and since_s <= line.at_s
        and (until_s is None or line.at_s <= until_s)
    )
    told = chosen if show_all else fold(chosen)
    if picture is not None:
        picture.write_text(sequence_diagram(path.name, told), encoding="utf-8")
        return
    before_s = 0.0
    for line in told:
        click.echo(_as_json(line) if as_json else _in_words(line, before_s))
        before_s = line.at_s


def _in_words(line: Line, before_s: float) -> str:
    speaker = _SPEAKERS.get(line.track, f"{line.track.name.lower()} queue")
    return f"{line.at_s:12.6f} {line.at_s - before_s:+10.6f}  {speaker:<15} {line.words}"


def _as_json(line: Line) -> str:
    return json.dumps(asdict(line) | {"track": line.track.name.lower()})

"""`ballonet receive`: wait for a guest of ours that moves here."""

from __future__ import annotations

from typing import Any, Final

import click

from ballonet.cli.embedded_guest import embedded

__all__ = ["receive"]

#: What the guest brings along, or what says where it comes from.
_LEFT_OUT: Final = {"workload": None, "seed": 0, "incoming_uri": None}


@click.pass_context
def _receive(context: click.Context, /, uri: str, **options: Any) -> None:  # noqa: ANN401 - of embedded
    context.invoke(embedded, **options, **(_LEFT_OUT | {"incoming_uri": uri}))


receive = click.Command(
    "receive",
    params=[
        click.Argument(["uri"]),
        *(one for one in embedded.params if one.name not in _LEFT_OUT),
    ],
    callback=_receive,
    help="""Wait for an embedded guest that moves here, and run it.

    URI is where it is to come: unix:PATH, tcp:HOST:PORT or fd:N.  The machine here must be as the
    one it leaves: as much --memory, the same --page-size, --swap and --poison, and a balloon device
    that offers what its own does.  Whatever goes wrong before it has arrived, it goes on there.
    """,
)

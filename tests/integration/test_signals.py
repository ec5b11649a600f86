"""A signal ends a verb, even where the exception that it raises is lost."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from tests.support.programs import started

#: Loses the first exception, as an object does that is just being finalised.
STUBBORN = """
import signal, sys
import click
from ballonet.cli import main

main.AGAIN_S = 0.05

@click.command()
def stubborn():
    try:
        print("ready", flush=True)
        signal.pause()
    except BaseException:
        pass
    signal.pause()

sys.exit(main._run(stubborn))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_whose_exception_is_lost_comes_again(number: signal.Signals) -> None:
    with started([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as verb:
        assert verb.stdout is not None
        assert verb.stdout.readline() == b"ready\n"
        verb.send_signal(number)
        assert verb.wait(60) == 128 + number

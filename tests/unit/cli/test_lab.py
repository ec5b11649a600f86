"""`ballonet lab`: wrong use is told before anything runs."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ballonet.cli.main import program


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothere"], "'nothere' is not one of"),
        (["mem-total", "--kernel", "moon"], "'moon' is not one of"),
        (["free-page-vq-callback", "mem-total", "--kernel", "qemu"], "--kernel: mem-total runs on"),
    ],
)
def test_wrong_use_is_told_before_anything_runs(words: list[str], told: str) -> None:
    result = CliRunner().invoke(program, ["lab", *words])
    assert result.exit_code == 2
    assert told in result.output

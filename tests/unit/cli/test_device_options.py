"""The options of a device, and what they make of it."""

from __future__ import annotations

from typing import Any

import click
from click.testing import CliRunner

from ballonet.cli.device_options import balloon_settings, device_options
from ballonet.device.balloon import BalloonSettings


def settings_of(*arguments: str) -> BalloonSettings:
    found: list[BalloonSettings] = []

    @click.command()
    @device_options
    def command(**options: Any) -> None:  # noqa: ANN401 - those of device_options
        found.append(balloon_settings(options))

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return found[0]


def test_the_program_serves_by_default_what_a_device_is_by_default() -> None:
    assert settings_of() == BalloonSettings()


def test_discards_need_not_be_put_off() -> None:
    assert settings_of("--no-defer-discards") == BalloonSettings(defers=False)

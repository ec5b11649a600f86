"""`ballonet doctor`: what this machine can do, and what is missing, in words."""

from __future__ import annotations

import json
import sys
from typing import Final

import click

from ballonet.cli.doctor_checks import CHECKS, Grade
from ballonet.cli.monitor_client import JSON_OPTION

__all__ = ["doctor"]

_NAME_COLUMNS: Final = max(len(check.name) for check in CHECKS)
_GRADE_COLUMNS: Final = max(len(grade.value) for grade in Grade)


@click.command()
@JSON_OPTION
def doctor(*, as_json: bool) -> None:
    """Try what ballonet needs of this machine, and say what is missing and how to get it.

    A guest of ours gives memory and takes it back; nothing is installed, changed, or left behind.
    Fails only if ballonet cannot do here what it is for.
    """
    is_broken = False
    for check in CHECKS:
        if sys.stderr.isatty() and not as_json:
            click.echo(f"\r\x1b[K{check.name} ...\r", nl=False, err=True)
        grade, words = check.run()
        is_broken = is_broken or grade is Grade.BROKEN
        if as_json:
            row = {"check": check.name, "needed_by": check.is_for, "grade": grade.name.lower()}
            click.echo(json.dumps(row | {"words": words}))
            continue
        click.echo(f"{grade.value:{_GRADE_COLUMNS}}  {check.name:{_NAME_COLUMNS}}  {words}")
        if grade is Grade.LACKING:
            click.echo(f"{'':{_GRADE_COLUMNS + _NAME_COLUMNS + 4}}needed by: {check.is_for}")
    if is_broken:
        raise click.ClickException("something that ballonet needs does not work here")

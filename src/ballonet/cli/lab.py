"""`ballonet lab`: questions about ballooning, answered by an experiment on a running kernel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.errors import ExperimentError, SystemCallError
from ballonet.lab.experiment import Experiment, Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import NAMES, find
from ballonet.lab.report import as_document, as_object, as_text

__all__ = ["index_of_answers", "lab"]

_INDEX: Final = "README.md"


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(NAMES))
@click.option("--list", "lists", is_flag=True, help="Show the questions.")
@click.option("--all", "does_all", is_flag=True, help="Answer all of them, one after the other.")
@click.option("--explain", "explains", is_flag=True, help="The answer first, the evidence below.")
@click.option(
    "--kernel",
    type=click.Choice([str(one) for one in Kernel]),
    help="Where it runs, if there is a choice.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--write",
    "directory",
    metavar="DIRECTORY",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each answer as a page there, too, and a list of all.",
)
@click.option(
    "--save",
    "files_directory",
    metavar="DIRECTORY",
    type=click.Path(file_okay=False, path_type=Path),
    help="Save the files that an experiment makes there: traces, pictures.",
)
def lab(
    names: tuple[str, ...],
    *,
    lists: bool,
    does_all: bool,
    explains: bool,
    kernel: str | None,
    as_json: bool,
    directory: Path | None,
    files_directory: Path | None,
) -> None:
    """Answer a question about ballooning by an experiment on a running kernel.

    It prints what was done and seen, and what follows.  Exit code 1 if what was seen does not
    support the answer.
    """
    if does_all:
        names = NAMES
    if lists or not names:
        _list(as_json=as_json)
        return
    chosen = [find(name) for name in names]
    where = None if kernel is None else Kernel(kernel)
    _check(chosen, where)
    failed: list[str] = []
    for number, experiment in enumerate(chosen, 1):
        before = f"{number} of {len(chosen)}, " if len(chosen) > 1 else ""
        notebook, claims = _performed(experiment, where, before)
        failed += claims
        _print(experiment, notebook, explains=explains, as_json=as_json)
        if directory is not None:
            _write(directory / f"{experiment.name}.md", as_document(experiment, notebook))
        if files_directory is not None:
            _save(files_directory, notebook)
    if directory is not None:
        _write(directory / _INDEX, index_of_answers())
    if failed:
        raise ExperimentError("lab", failed)


def _check(chosen: Sequence[Experiment], kernel: Kernel | None) -> None:
    """Wrong use is told before anything runs. Raises: click.UsageError."""
    for one in chosen:
        if kernel is not None and kernel not in one.runs:
            raise click.UsageError(f"--kernel: {one.name} runs on {', '.join(one.runs)} only")


def _performed(
    experiment: Experiment, kernel: Kernel | None, before: str
) -> tuple[Notebook, Sequence[str]]:
    """What was seen, and the claims that it does not support; the step under way is shown."""
    progress = Console(stderr=True, highlight=False)
    with progress.status(f"{before}{experiment.name} ...") as status:
        notebook = Notebook(lambda step: status.update(f"{before}{step} ..."))
        try:
            perform(experiment, notebook, kernel)
        except ExperimentError as error:
            return notebook, error.claims
    return notebook, ()


def _list(*, as_json: bool) -> None:
    experiments = [find(name) for name in NAMES]
    if as_json:
        for one in experiments:
            row = {"name": one.name, "question": one.question, "answer": one.answer}
            click.echo(json.dumps(row | {"kernels": [str(kernel) for kernel in one.runs]}))
        return
    table = Table("name", "question", "runs on", box=None)
    for one in experiments:
        table.add_row(one.name, one.question, ", ".join(one.runs))
    Console(highlight=False).print(table)


def _print(experiment: Experiment, notebook: Notebook, *, explains: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(as_object(experiment, notebook)))
    else:
        click.echo(as_text(experiment, notebook, explains=explains) + "\n")


def index_of_answers() -> str:
    """The page that lists all answers."""
    rows: Sequence[Experiment] = [find(name) for name in NAMES]
    lines = [f"- [{one.question}]({one.name}.md) {one.answer}" for one in rows]
    return (
        "# Answers\n\nMade by `make answers`; each is an experiment that can be run again.\n\n"
        + ("\n".join(lines) + "\n")
    )


def _save(directory: Path, notebook: Notebook) -> None:
    for name, text in notebook.files.items():
        _write(directory / name, text)
        click.echo(f"saved {directory / name}", err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemCallError("writing", str(path), error.strerror or str(error)) from error

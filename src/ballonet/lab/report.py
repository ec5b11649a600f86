"""What an experiment has found, for people, for documents and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict

from ballonet.lab.experiment import Experiment
from ballonet.lab.notebook import Block, Claim, Entry, Notebook, Seen, Step, Table, Value
from ballonet.units import format_bytes, pages_to_bytes

__all__ = ["as_document", "as_object", "as_text"]

_WIDTH = 96
_SHORT_MS = 10


def as_text(experiment: Experiment, notebook: Notebook, *, explains: bool) -> str:
    """As printed; with `explains` the answer comes first."""
    lines = [experiment.question, ""]
    if explains:
        lines += [*_wrapped(experiment.answer), "", *_wrapped(experiment.explanation), ""]
    lines += [*_printed(notebook)]
    if explains:
        lines += ["", "Sources:", *(f"  {source}" for source in experiment.sources)]
    return "\n".join(lines)


def as_document(experiment: Experiment, notebook: Notebook) -> str:
    """A page of Markdown: the answer, the printed run, where it comes from."""
    printed = as_text(experiment, notebook, explains=False).split("\n", 2)[2]
    sources = "\n".join(f"- {source}" for source in experiment.sources)
    explanation = "\n".join(_wrapped(experiment.explanation))
    answer = "\n".join(_wrapped(experiment.answer))
    return (
        f"# {experiment.question}\n\n**{answer}**\n\n{explanation}\n\n"
        f"```console\n$ ballonet lab {experiment.name}\n{printed}\n```\n\n## Sources\n\n{sources}\n"
    )


def as_object(experiment: Experiment, notebook: Notebook) -> dict[str, object]:
    """As JSON has it."""
    return {
        "name": experiment.name,
        "question": experiment.question,
        "answer": experiment.answer,
        "explanation": experiment.explanation,
        "sources": list(experiment.sources),
        "kernel": notebook.kernel,
        "entries": [
            {"kind": type(one).__name__.lower(), **asdict(one)} for one in notebook.entries
        ],
        "conclusion": notebook.conclusion,
        "is_supported": not notebook.unsupported,
    }


def _printed(notebook: Notebook) -> Iterator[str]:
    yield f"on {notebook.kernel}"
    width = max((len(one.name) for one in notebook.entries if isinstance(one, Seen)), default=0)
    for entry in notebook.entries:
        yield from _lines(entry, width)
    yield ""
    yield from _wrapped(notebook.conclusion)


def _lines(entry: Entry, width: int) -> Iterator[str]:
    match entry:
        case Step(text):
            yield f"  {text}"
        case Seen(name, value, unit):
            yield f"    {name:<{width}}  {_in_words(value, unit)}"
        case Table():
            yield from _rows(entry)
        case Block(title, text):
            yield f"    {title}:"
            yield from (f"      {line}".rstrip() for line in text.splitlines())
        case Claim(text, holds):
            yield f"  {'✓' if holds else '✗'} {text}"


def _rows(table: Table) -> Iterator[str]:
    yield f"    {table.title}:"
    cells = [table.headings, *(tuple(_in_words(one, "") for one in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [
        all(isinstance(one, int | float) for one in column)
        for column in zip(*table.rows, strict=True)
    ] or [False] * len(widths)
    for row in cells:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        yield f"      {'  '.join(aligned)}".rstrip()


def _in_words(value: Value, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if unit == "bytes":
        return format_bytes(int(value))
    if unit == "pages":
        return f"{value:,} pages ({format_bytes(pages_to_bytes(int(value)))})"
    number = f"{value:,}" if isinstance(value, int) else _rounded(value)
    return f"{number} {'µs' if unit == 'us' else unit}".rstrip()


def _rounded(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < _SHORT_MS else f"{value:,.0f}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH)

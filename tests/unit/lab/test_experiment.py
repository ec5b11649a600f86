"""An answer stands on what was seen, and is printed with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.support.lab_turn import DAYS
from tests.support.turn import turn

from ballonet.errors import ExperimentError, UsageError
from ballonet.lab.experiment import Experiment, Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import NAMES, find
from ballonet.lab.report import as_document, as_object, as_text


def run(notebook: Notebook, *, holds: bool = True) -> None:
    notebook.runs_on("6.1", "a machine")
    notebook.step("a page is looked at")
    notebook.see("its size", 4096, "bytes")
    notebook.see("how long", 12.5, "ms")
    notebook.see("is it there", value=True)
    notebook.table("pages", ("kind", "number"), [("free", 1200), ("used", 7)])
    notebook.block("its bytes", "00 01\n02 03\n")
    notebook.claim("it is 4 KiB", holds=holds)
    notebook.conclude("It is 4 KiB, and was there.")


EXPERIMENT = Experiment(
    name="a-page",
    question="How big is a page?",
    answer="A page has 4 KiB.",
    explanation="It has had them always.",
    sources=("somewhere",),
    runs={Kernel.HOST: run, Kernel.UML: lambda notebook: run(notebook, holds=False)},
)
PRINTED = """\
on Linux 6.1 (a machine)
  a page is looked at
    its size     4.0 KiB
    how long     12 ms
    is it there  yes
    pages:
      kind  number
      free   1,200
      used       7
    its bytes:
      00 01
      02 03
  ✓ it is 4 KiB

It is 4 KiB, and was there."""


def test_it_is_printed_with_the_evidence_and_the_answer_first_if_wanted() -> None:
    heard: list[str] = []
    notebook = Notebook(heard.append)
    perform(EXPERIMENT, notebook)
    assert heard == ["a page is looked at"]
    assert as_text(EXPERIMENT, notebook, explains=False) == f"How big is a page?\n\n{PRINTED}"
    explained = as_text(EXPERIMENT, notebook, explains=True)
    assert explained.startswith(
        "How big is a page?\n\nA page has 4 KiB.\n\nIt has had them always."
    )
    assert explained.endswith(f"{PRINTED}\n\nSources:\n  somewhere")


def test_a_document_has_answer_run_and_sources() -> None:
    notebook = Notebook()
    perform(EXPERIMENT, notebook)
    document = as_document(EXPERIMENT, notebook)
    assert document.startswith("# How big is a page?\n\n**A page has 4 KiB.**\n\n")
    assert f"```console\n$ ballonet lab a-page\n{PRINTED}\n```\n" in document
    assert document.endswith("## Sources\n\n- somewhere\n")


def test_as_json_it_is_all_there() -> None:
    notebook = Notebook()
    perform(EXPERIMENT, notebook)
    found = json.loads(json.dumps(as_object(EXPERIMENT, notebook)))
    assert found["is_supported"] is True
    assert found["conclusion"] == "It is 4 KiB, and was there."
    assert {"kind": "seen", "name": "its size", "value": 4096, "unit": "bytes"} in found["entries"]


def test_an_answer_that_is_not_supported_is_an_error_and_is_marked() -> None:
    notebook = Notebook()
    with pytest.raises(ExperimentError, match="a-page: what was seen does not support: it is 4"):
        perform(EXPERIMENT, notebook, Kernel.UML)
    assert "✗ it is 4 KiB" in as_text(EXPERIMENT, notebook, explains=False)


def test_without_a_claim_or_a_conclusion_it_is_none() -> None:
    for lacking in (lambda one: one.conclude("so"), lambda one: one.claim("so", holds=True)):
        with pytest.raises(UsageError, match="comes to no conclusion, or claims nothing"):
            perform(replace(EXPERIMENT, runs={Kernel.HOST: lacking}), Notebook())
    with pytest.raises(UsageError, match="runs on host, uml, not on qemu"):
        perform(EXPERIMENT, Notebook(), Kernel.QEMU)


@pytest.mark.parametrize("name", NAMES)
def test_every_question_is_whole(name: str) -> None:
    one = find(name)
    assert one.name == name
    assert one.question.endswith("?")
    assert one.answer.endswith(".")
    assert one.answer.count(". ") == 0, "one sentence"
    assert one.explanation.endswith(".")
    assert one.sources
    assert one.runs


def test_three_days_see_every_experiment_once() -> None:
    seen = [name for day in range(DAYS) for name in turn(NAMES, DAYS, day, is_whole=False)]
    assert sorted(seen) == sorted(NAMES)
    assert list(turn(NAMES, DAYS, 0, is_whole=True)) == list(NAMES)

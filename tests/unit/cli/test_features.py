"""What `ballonet features` makes of what was observed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from ballonet.cli.features import features
from ballonet.errors import GuestError
from ballonet.guests.evidence import Evidence

ROWS = (
    Evidence("reset", observed=True, evidence="begun anew"),
    Evidence("wide", observed=True, evidence="seen", bit=5, offered=True, negotiated=True),
    Evidence("bell", observed=True, evidence="none", bit=4, offered=False, negotiated=False),
)


class Witness:
    """Somebody who has seen these rows."""

    subject = "What was seen"
    release = "6.1.0"

    def __init__(self, rows: tuple[Evidence, ...]) -> None:
        self._rows = rows
        self.names = tuple(row.name for row in rows)

    def observe(self) -> Iterator[Evidence]:
        yield from self._rows


def use(monkeypatch: pytest.MonkeyPatch, *rows: Evidence) -> None:
    """Have these rows seen, of a guest of any size."""

    @contextmanager
    def witness(_: int) -> Iterator[Witness]:
        yield Witness(rows)

    monkeypatch.setattr("ballonet.cli.features._WITNESSES", {"vmware": witness})


def test_what_has_a_bit_comes_first_and_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, *ROWS)
    told = json.loads(
        CliRunner()
        .invoke(features, ["--balloon", "vmware", "--json"], standalone_mode=False)
        .stdout
    )
    assert [row["name"] for row in told] == ["bell", "wide", "reset"]
    assert [row["bit"] for row in told] == [4, 5, None]
    assert [row["offered"] for row in told] == [False, True, None]
    assert all(row["kernel"] == "6.1.0" and row["observed"] for row in told)


def test_the_table_shows_an_empty_cell_for_what_is_not_negotiated_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, *ROWS)
    lines = CliRunner().invoke(features, ["--balloon", "vmware"]).stdout.splitlines()
    assert lines[0].strip() == "What was seen on Linux 6.1.0"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["4", "bell", "no", "no", "none"],
        ["5", "wide", "yes", "yes", "seen"],
        ["", "reset", "", "", "begun anew"],
    ]


def test_what_was_not_observed_is_a_failure_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, *ROWS, Evidence("slack", observed=False, evidence="all came back"))
    done = CliRunner().invoke(features, ["--balloon", "vmware"])
    assert isinstance(done.exception, GuestError)
    assert "slack" in str(done.exception)
    assert "NOT OBSERVED: all came back" in done.stdout

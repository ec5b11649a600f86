"""Lines of people: words, and the sizes they ask for."""

from __future__ import annotations

import pytest
from tests.unit.qmp.fake_machine import FakeMachine, type_line

from ballonet.qmp.version import VERSIONS

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("300", 300),
        ("0x100", 256),
        ("010", 8),
        ("256+44", 300),
        ("(100+50)*2", 300),
        ("0" * 40 + "7", 7),
        ("0x" + "0" * 40 + "10", 16),
        ("+300", 300),
        ("\t300\t", 300),
        ("1|2+3&7", 6),
        ("7/-2+10", 7),
        ("'a'", 97),
        ("- -5", 5),
    ],
)
def test_a_size_is_any_expression_in_mebibytes(text: str, mib: int) -> None:
    machine = FakeMachine()
    assert type_line(machine, f"balloon {text}") == ""
    assert machine.logical_bytes == mib * MIB


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unexpected end of expression"),
        ("x", "invalid char 'x' in expression"),
        ("1+", "unexpected end of expression"),
        ("(1", "')' expected"),
        ("1/0", "division by zero"),
        ("9" * 5000, "number too large"),
        ("512M", "balloon: extraneous characters at the end of line"),
        ("-1", "enter a positive value"),
        ("$eax", "unknown register"),
        ("(" * 30_000, "unexpected end of expression"),
    ],
)
def test_what_is_no_size_changes_nothing_and_says_where_help_is(text: str, words: str) -> None:
    machine = FakeMachine()
    printed = type_line(machine, f"balloon {text}")
    assert printed == f'{words}\r\nTry "help balloon" for more information\r\n'
    assert machine.logical_bytes == 512 * MIB


@pytest.mark.parametrize(
    ("text", "words"), [("0", "expects a size"), ("0x80000000000", "expects a size")]
)
def test_a_size_that_is_none_is_refused_in_the_words_of_the_release(text: str, words: str) -> None:
    for version, name in (("7.2", "target"), ("11.1", "value")):
        machine = FakeMachine(version=VERSIONS[version])
        assert type_line(machine, f"balloon {text}") == f"Error: Parameter '{name}' {words}\r\n"


def test_the_depth_of_an_expression_has_no_limit() -> None:
    machine = FakeMachine()
    assert type_line(machine, f"balloon {'(' * 30_000}3{')' * 30_000}") == ""
    assert type_line(machine, f"balloon {'-' * 30_000}3") == ""
    assert machine.logical_bytes == 3 * MIB


def test_a_machine_without_a_guest_has_no_balloon() -> None:
    for line in ("balloon 300", "info balloon"):
        printed = type_line(FakeMachine(None), line)
        assert printed == "Error: No balloon device has been activated\r\n"


def test_the_least_number_by_minus_one_ends_nobody() -> None:
    least = "(0-9223372036854775807-1)"
    assert "positive" in type_line(FakeMachine(), f"balloon {least}/-1")
    assert "expects a size" in type_line(FakeMachine(), f"balloon {least}%-1")


def test_time_is_stopped_and_goes_on_by_any_name() -> None:
    machine = FakeMachine()
    for line, running in (("stop", False), ("c", True), ("s", False), ("cont", True)):
        assert type_line(machine, line) == ""
        assert machine.running is running
    assert type_line(machine, "q") == ""
    assert machine.told == ["quit"]


def test_statistics_are_shown_as_far_as_there_are_any() -> None:
    machine = FakeMachine()
    assert type_line(machine, "info stats") == "no statistics\r\n"
    machine.stats = {"memfree": MIB, "majflt": 7}
    assert type_line(machine, "info stats") == "majflt: 7\r\nmemfree: 1.0 MiB\r\n"

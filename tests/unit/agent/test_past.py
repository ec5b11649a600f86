"""What the agent remembers of machines, whatever happens to its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.rounds import machine, round_of

from ballonet.agent.bounded_lines import BoundedLines
from ballonet.agent.past import EVERY_S, PAST_NAME, Past

MIB = 1 << 20


def seen(past: Past, at_s: float, actual_mib: int, why_not: str = "") -> None:
    one = machine(
        "web", at_s, actual_bytes=actual_mib * MIB, memory_bytes=256 * MIB, why_not=why_not
    )
    past.take(round_of(one, ended_s=at_s))


def kept(past: Past) -> list[int]:
    """In MiB, of the only machine."""
    (rows,) = past.of(None, 0.0).values()
    return [int(str(row[3])) // MIB for row in rows]


def test_every_ten_seconds_are_remembered_also_by_the_next_agent(tmp_path: Path) -> None:
    past = Past(tmp_path)
    for number in range(4):
        seen(past, number * EVERY_S / 2, 100 + number)
    assert kept(past) == [100, 102]
    after = Past(tmp_path)
    seen(after, 0.0, 7)
    assert kept(after) == [100, 102, 7]


def test_half_a_line_is_passed_over_and_those_after_it_are_not(tmp_path: Path) -> None:
    seen(Past(tmp_path), 0.0, 1)
    with (tmp_path / PAST_NAME).open("ab") as file:
        file.write(b'{"at_s": 5, "host_av')
    after = Past(tmp_path)
    seen(after, 0.0, 2)
    assert kept(after) == [1, 2]


def test_what_somebody_else_wrote_there_is_passed_over(tmp_path: Path) -> None:
    lines = [
        b"nonsense",
        b"[]",
        b"\xff\xfe",
        b'{"at_s": 1, "host_available_bytes": "x", "vms": {}}',
    ]
    (tmp_path / PAST_NAME).write_bytes(b"\n".join([*lines, b""]))
    past = Past(tmp_path)
    seen(past, 0.0, 3)
    assert kept(past) == [3]


def test_of_one_that_does_not_answer_nothing_is_remembered(tmp_path: Path) -> None:
    past = Past(tmp_path)
    seen(past, 0.0, 1)
    seen(past, 20.0, 1, why_not="it keeps silent")
    assert kept(past) == [1]


def test_a_machine_alone_and_only_from_a_moment_on(tmp_path: Path) -> None:
    past = Past(tmp_path)
    seen(past, 0.0, 1)
    assert past.of(frozenset({"qemu:other"}), 0.0) == {}
    assert past.of(None, 1e12) == {}
    assert len(past.of(frozenset({"qemu:web"}), 0.0)) == 1


def test_the_file_is_bounded_and_what_it_had_is_not_lost_at_once(tmp_path: Path) -> None:
    lines = BoundedLines(tmp_path / "lines", 100, "lines")
    for number in range(30):
        lines.write(json.dumps(number).encode().rjust(9) + b"\n")
        total = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert total <= 200
    left = [int(line) for line in lines.read()]
    assert left == list(range(30 - len(left), 30))
    assert len(left) > 10


def test_a_disk_that_is_full_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = BoundedLines(tmp_path / "no" / "folder", 100, "the lines")
    for _ in range(3):
        lines.write(b"1\n")
    assert caplog.text.count("the lines are not written down") == 1
    (tmp_path / "no").mkdir()
    lines.write(b"2\n")
    assert list(lines.read()) == [b"2"]

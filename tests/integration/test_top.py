"""`ballonet top` in a real terminal, over a real host and its guests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.integration.moving_guests import MovingGuest, device
from tests.support.qmp_client import QmpClient
from tests.support.terminal import Terminal
from tests.support.wait import PATIENCE_S, holds, wait_until

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
NAMES = ("top-db", "top-web")
STATISTICS = {
    "path": "/machine/peripheral/balloon0",
    "property": "guest-stats-polling-interval",
}
#: Draws once, and then has a bug.
WITH_A_BUG = """
import ballonet.cli.top.live as live
from ballonet.cli.main import main
drawn = []
def screen_lines(*words, draw=live.screen_lines):
    drawn.append(1)
    if len(drawn) > 3:
        raise RuntimeError("a bug on purpose")
    return draw(*words)
live.screen_lines = screen_lines
main()
"""


class Rig:
    """A host with two guests."""

    def __init__(self, folder: Path, stack: ExitStack, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, list(names)
        self.host: HostProcess = stack.enter_context(running(folder / "host"))
        self.guests = {
            name: stack.enter_context(
                MovingGuest(folder, name, self.host.add(name), "--memory", "128M")
            )
            for name in names
        }
        for name in names:
            wait_until(lambda: self.told(name)["has_driver"], PATIENCE_S, "no driver")  # noqa: B023

    def told(self, name: str) -> dict[str, Any]:
        """What `ballonet list` says of a guest."""
        command = [BALLONET, "list", name, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row: dict[str, Any] = json.loads(done.stdout)[0]
        return row

    def actual_mib(self, name: str) -> int:
        return int(self._asked(name, "query-balloon")["actual"]) // MIB

    def interval_s(self, name: str) -> int:
        return int(self._asked(name, "qom-get", **STATISTICS))

    def have_polled(self, name: str, interval_s: int) -> None:
        self._asked(name, "qom-set", **STATISTICS, value=interval_s)

    def _asked(self, name: str, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        with QmpClient(self.folder / "host" / f"{name}.qmp") as client:
            return client.negotiate().ask(command, **arguments)["return"]


@contextmanager
def rig_in(folder: Path, *names: str) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(folder, stack, names)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """For tests that leave it as it was."""
    with rig_in(tmp_path_factory.mktemp("top"), *NAMES) as rig:
        yield rig


@contextmanager
def terminal_with_top(rig: Rig, columns: int = 100, lines: int = 24) -> Iterator[Terminal]:
    """It shows both guests, with statistics."""
    with Terminal(rig.folder, columns, lines) as terminal:
        top = f"ballonet top '{rig.names[0].partition('-')[0]}-*' --interval 500ms"
        terminal.run(f"stty -a >before; {top}; code=$?; stty -a >after; echo it ended with $code")
        terminal.wait_for(lambda text: rows_of(text) == rig.names, "both guests")
        terminal.wait_for(lambda text: all(cell(text, name, "avail") != "?" for name in rig.names))
        yield terminal


def rows_of(text: str) -> list[str]:
    """Names in the table."""
    return [line.split()[0] for line in text.splitlines() if line.startswith("top")]


def cell(text: str, name: str, head: str) -> str:
    """What stands under a head in the row of a machine."""
    lines = text.splitlines()
    heads = next((line for line in lines if line.startswith("name")), "")
    row = next((line for line in lines if line.startswith(name)), "")
    if head not in heads or not row:
        return ""
    if head == "state":
        return row[heads.index(head) : heads.index(head) + 9].strip()
    end = heads.index(head) + len(head)
    return row[:end].split()[-1]


def has_arrived(name: str, size: str, text: str) -> bool:
    return (cell(text, name, "keeps"), cell(text, name, "state")) == (size, "arrived")


def is_state(name: str, state: str, text: str) -> bool:
    return cell(text, name, "state") == state


def fills(lines: int, head: str, text: str) -> bool:
    """So many lines are all in use: both guests, a column, and the keys at the end."""
    shown = text.splitlines()
    is_whole = len(shown) == lines and shown[-1].startswith("? help")
    return is_whole and head in text and rows_of(text) == list(NAMES)


def quit_with(terminal: Terminal, key: str, code: int = 0) -> None:
    terminal.press(key)
    terminal.wait_for(f"it ended with {code}")


def test_guests_are_shown_sorted_filtered_and_drawn(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        text = terminal.wait_for("all keep 256M")
        assert "2 VMs  every 0.5 s" in text
        assert cell(text, "top-web", "keeps") == "128M"
        assert cell(text, "top-web", "memory") == "128M"
        terminal.press("n")
        terminal.wait_for(lambda text: rows_of(text) == list(reversed(NAMES)), "turned round")
        terminal.press("h")
        terminal.wait_for("▾held")
        terminal.press("/")
        terminal.press(*"web")
        terminal.wait_for("show names with: web")
        terminal.press("Enter")
        text = terminal.wait_for("1 of 2 VMs like web")
        assert rows_of(text) == ["top-web"]
        terminal.press("Enter")
        text = terminal.wait_for("held by the host")
        assert "keeps  128M now, 128M to 128M, of 128M" in text
        terminal.press("Escape")
        terminal.wait_for("▾held")
        terminal.press("Escape")
        terminal.wait_for(lambda text: len(rows_of(text)) == 2, "both again")
        terminal.press("?")
        terminal.wait_for("min: it can live with")
        terminal.press("x")
        terminal.press("p")
        terminal.wait_for("PAUSED")
        quit_with(terminal, "q")


def test_a_rate_is_shown_after_some_seconds(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        terminal.wait_for(lambda text: cell(text, "top-web", "faults/s") == "0", "a rate")


def test_a_size_is_set_and_its_verdict_comes(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        terminal.press("Down", "s")
        terminal.wait_for("top-web is to keep (512M, min, 128.0 MiB now of 128.0 MiB): ")
        terminal.run("96M")
        text = terminal.wait_for("top-web: reached: the guest keeps 96.0 MiB")
        terminal.wait_for(lambda text: cell(text, "top-web", "state") == "arrived", "its state")
        assert cell(text, "top-db", "keeps") == "128M"
        assert (shared.actual_mib("top-web"), shared.actual_mib("top-db")) == (96, 128)
        terminal.press("s")
        terminal.run("128M")
        terminal.wait_for("top-web: reached: the guest keeps 128.0 MiB")
        quit_with(terminal, "q")


def test_less_than_a_guest_can_live_with_is_not_asked_for(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        terminal.press("Home", "s")
        terminal.run("1M")
        terminal.wait_for("top-db: refused: of its 128.0 MiB the guest uses")
        assert shared.told("top-db")["target_bytes"] == 128 * MIB
        quit_with(terminal, "q")


def test_a_size_that_somebody_else_asks_for_is_seen(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        for size_mib in (100, 128):
            shared.host.balloon("top-db", f"{size_mib}M")
            terminal.wait_for(
                partial(has_arrived, "top-db", f"{size_mib}M"), "the size that was set elsewhere"
            )


def settings_of(rig: Rig, when: str) -> str:
    """Of the terminal, as `stty` has told them."""
    return (rig.folder / when).read_text()


@pytest.mark.parametrize(
    ("way", "code"),
    [("q", 0), ("C-c", 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_terminal_and_guests_are_left_as_they_were(
    shared: Rig, way: str | signal.Signals, code: int
) -> None:
    shared.have_polled("top-db", 77)
    with terminal_with_top(shared) as terminal:
        assert (terminal.told("alternate_on"), terminal.told("cursor_flag")) == ("1", "0")
        wait_until(lambda: shared.interval_s("top-web") == 1, PATIENCE_S, "it is not asked")
        assert shared.interval_s("top-db") == 77
        if isinstance(way, str):
            terminal.press(way)
        else:
            os.kill(terminal.child(), way)
        text = terminal.wait_for(f"it ended with {code}")
        assert "stty -a >before" in text  # what was there before
        assert [terminal.told(one) for one in ("alternate_on", "cursor_flag", "wrap_flag")] == [
            "0",
            "1",
            "1",
        ]
        assert settings_of(shared, "after") == settings_of(shared, "before")
    assert (shared.interval_s("top-web"), shared.interval_s("top-db")) == (0, 77)
    shared.have_polled("top-db", 0)


def test_a_bug_leaves_the_terminal_and_the_guests_as_they_were(shared: Rig) -> None:
    script = shared.folder / "with_a_bug.py"
    script.write_text(WITH_A_BUG)
    with Terminal(shared.folder, 120, 40) as terminal:
        terminal.run(f"stty -a >before; python {script} top 'top-*' --interval 1s")
        terminal.wait_for("RuntimeError: a bug on purpose")
        terminal.run("stty -a >after; echo it is over")
        terminal.wait_for(lambda text: text.count("it is over") == 2, "a prompt")
        assert terminal.told("alternate_on") == "0"
        assert settings_of(shared, "after") == settings_of(shared, "before")
    assert [shared.interval_s(name) for name in NAMES] == [0, 0]


def test_the_terminal_is_the_shells_while_it_is_stopped(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        terminal.press("C-z")
        text = terminal.wait_for("Stopped")
        assert rows_of(text) == []
        terminal.run("stty -a >after; cmp before after && echo the same")
        terminal.wait_for(lambda text: "\nthe same" in text, "the settings of before")
        terminal.run("bg; echo it goes on")
        terminal.wait_for(lambda text: "\nit goes on" in text, "a shell that is not disturbed")
        assert holds(lambda: rows_of("\n".join(terminal.lines())) == [], 1.0)
        terminal.run("fg")
        terminal.wait_for(lambda text: rows_of(text) == list(NAMES), "both guests again")
        terminal.press("q")
        terminal.wait_for(lambda text: text.rstrip().endswith("#"), "a prompt")
    assert [shared.interval_s(name) for name in NAMES] == [0, 0]


def test_it_fits_a_terminal_whose_size_changes(shared: Rig) -> None:
    with terminal_with_top(shared) as terminal:
        for columns, lines, head in [(60, 12, "state"), (160, 30, "age"), (61, 5, "name")]:
            terminal.resize(columns, lines)
            terminal.wait_for(
                partial(fills, lines, head),
                f"a screen of {columns} columns and {lines} lines",
            )
        quit_with(terminal, "q")


def test_it_lives_on_when_a_guest_dies_and_another_machine_hangs(tmp_path: Path) -> None:
    names = ("topdies-db", "topdies-web")
    with (
        rig_in(tmp_path, *names) as rig,
        terminal_with_top(rig) as terminal,
        device(tmp_path, "topdies-x"),
    ):
        rig.guests["topdies-db"].kill()
        terminal.wait_for(partial(is_state, "topdies-db", "no VMM"), "a dead guest")
        terminal.wait_for(partial(is_state, "topdies-x", "no VMM"), "one that came meanwhile")
        hanging = rig.told("topdies-x")["pid"]
        os.kill(hanging, signal.SIGSTOP)
        terminal.wait_for(partial(is_state, "topdies-x", "silent"), "one that hangs")
        rig.host.balloon("topdies-web", "100M")
        terminal.wait_for(partial(has_arrived, "topdies-web", "100M"), "another's size meanwhile")
        os.kill(hanging, signal.SIGCONT)
        terminal.wait_for(partial(is_state, "topdies-x", "no VMM"), "one that answers again")
        worker = rig.host.worker("topdies-db")
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: rig.host.rows()["topdies-db"]["pid"] not in (None, worker),
            PATIENCE_S,
            "no new worker",
        )
        terminal.wait_for(partial(is_state, "topdies-db", "no VMM"), "the new one")
        quit_with(terminal, "q")


def test_one_that_hangs_does_not_keep_the_terminal_nor_the_others(tmp_path: Path) -> None:
    with (
        rig_in(tmp_path, "tophang-db", "tophang-web") as rig,
        device(tmp_path, "tophang-x"),
        MovingGuest(tmp_path, "guest", tmp_path / "tophang-x"),
        Terminal(tmp_path, 100, 24) as terminal,
    ):
        terminal.run("ballonet top 'tophang-*' --interval 500ms; echo it ended with $?")
        terminal.wait_for(lambda text: cell(text, "tophang-x", "faults/s") == "0", "all three")
        hanging = rig.told("tophang-x")["pid"]
        os.kill(hanging, signal.SIGSTOP)
        terminal.press("q")
        terminal.wait_for("a VM does not answer; leaving its statistics as before")
        assert [rig.interval_s(name) for name in rig.names] == [0, 0]
        terminal.press("C-c")
        terminal.wait_for("^C")
        os.kill(hanging, signal.SIGCONT)
        terminal.wait_for("it ended with 0")
        with QmpClient(Path(f"{tmp_path / 'tophang-x'}.qmp")) as client:
            assert client.negotiate().ask("qom-get", **STATISTICS)["return"] == 0


def once(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, "top", "top-*", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "COLUMNS": "80"},
    )


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_where_there_is_no_terminal_one_round_is_printed(
    shared: Rig, options: tuple[str, ...]
) -> None:
    done = once(*options)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows_of(done.stdout) == list(NAMES)
    assert cell(done.stdout, "top-web", "avail").endswith("M")
    assert "\x1b" not in done.stdout
    assert shared.interval_s("top-web") == 0


def test_one_round_in_json_is_what_list_says_and_more(shared: Rig) -> None:
    for name in NAMES:
        shared.have_polled(name, 1)
        wait_until(
            lambda: shared.told(name)["available_bytes"],  # noqa: B023 - it ends before
            PATIENCE_S,
            "no statistics",
        )
    done = once("--once", "--json")
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert told["host"]["memory_bytes"] > told["host"]["available_bytes"] > 0
    by_name = {row["name"]: row for row in told["machines"]}
    assert list(by_name) == list(NAMES)
    for name, row in by_name.items():
        listed = shared.told(name)
        for key in listed.keys() - {"stats_age_s"}:
            assert row[key] == listed[key], key
        assert row["used_bytes"] == listed["actual_bytes"] - listed["available_bytes"]
        assert row["state"] == "quiet"
        assert row["rates"]["major_faults_per_s"] is None  # one round has none
        shared.have_polled(name, 0)


def test_json_is_an_object_a_round_until_nobody_reads_it(shared: Rig) -> None:
    command = [BALLONET, "top", "top-*", "--json", "--interval", "200ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rounds = [json.loads(process.stdout.readline()) for _ in range(3)]
        wait_until(lambda: shared.interval_s("top-web") == 1, PATIENCE_S, "it is not asked")
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 1
    assert [len(one["machines"]) for one in rounds] == [2, 2, 2]
    assert rounds[0]["time_s"] < rounds[2]["time_s"]
    assert [shared.interval_s(name) for name in NAMES] == [0, 0]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--interval", "0.1s"), "--interval: at least 0.2 s"),
        (("--sort", "size"), "'size' is not one of"),
    ],
)
def test_wrong_use_is_one_line(options: tuple[str, ...], error: str) -> None:
    done = once(*options)
    assert done.returncode == 2
    assert error in done.stderr
    assert done.stderr.count("\n") == 1

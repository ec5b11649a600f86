"""`ballonet migrate` and `dirty-rate` with real QEMUs: bytes, ends, what is left behind.

This QEMU loses dirty pages of a guest that runs under TCG while it is migrated, so memory is
compared page by page only where the guest was stopped before; and whether one that ran still lives
at the destination proves nothing: of four whose driver was naming free pages two had died.
"""

from __future__ import annotations

import json
import mmap
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.monitor_tap import tapped
from tests.support.programs import started
from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.qemu import HINTING, QemuGuest, used_and_freed
from ballonet.vms.foreign_commands import may_be_sent, may_be_sent_to_migrate

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
MEMORY_BYTES = 512 * MIB
STALE_BYTES = 300 * MIB
PAGE = 4096


def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BALLONET, *arguments], capture_output=True, text=True, check=False)


class Journey:
    """A guest that boots once, and goes from one QEMU to the next."""

    def __init__(self, folder: Path, *balloon_options: str) -> None:
        self.folder, self._options = folder, balloon_options
        self._stack = ExitStack()
        self._places = 0
        self.here = self._place(first=used_and_freed(STALE_BYTES))

    def _place(self, **more: Any) -> QemuGuest:  # noqa: ANN401 - QemuGuest's
        """A QEMU with a second monitor, to look on while the first is held."""
        self._places += 1
        self.watch = self.folder / f"watch{self._places}"
        arguments = ("-qmp", f"unix:{self.watch},server=on,wait=off")
        guest = QemuGuest(MEMORY_BYTES, *self._options, arguments=arguments, **more)
        return self._stack.enter_context(guest)

    def next(self) -> tuple[QemuGuest, str]:
        """Another QEMU that waits, and where."""
        watch = self.watch
        socket = self.folder / f"in{self._places}"
        there = self._place(incoming=socket)
        self.watch_there, self.watch = self.watch, watch
        return there, f"unix:{socket}"

    def arrive(self, there: QemuGuest) -> None:
        """The guest is there now."""
        self.here.stop()
        self.here, self.watch = there, self.watch_there

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def hinting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    """A guest that names its free pages, of which many are not zeros until it has named them.

    For that it allocates them, and Debian's kernel clears what is allocated.
    """
    journey = Journey(tmp_path_factory.mktemp("hinting"), *HINTING)
    yield journey
    journey.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    """The same one without hints."""
    journey = Journey(tmp_path_factory.mktemp("plain"))
    yield journey
    journey.close()


def ask(path: Path, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    with QmpClient(path) as client:
        return client.negotiate().ask(command, **arguments)["return"]


def settings(path: Path) -> tuple[Any, Any]:
    return ask(path, "query-migrate-parameters"), ask(path, "query-migrate-capabilities")


def is_running(path: Path) -> bool:
    return bool(ask(path, "query-status")["running"])


def lives(guest: QemuGuest) -> bool:
    """Its balloon answers, with statistics of now."""
    return ballonet("stats", str(guest.qmp_path)).returncode == 0


def on_its_way(path: Path) -> bool:
    return bool(ask(path, "query-migrate").get("status") == "active")


pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("test_migrate")]


def test_a_destination_that_is_not_there_is_one_line_and_nothing_changes(plain: Journey) -> None:
    before = settings(plain.watch)
    done = ballonet("migrate", str(plain.here.qmp_path), "unix:/nowhere/none", "--bandwidth", "10M")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No such file or directory; the VM goes on at the source" in done.stderr
    assert settings(plain.watch) == before
    assert is_running(plain.watch)


def test_wrong_use_is_exit_code_2(plain: Journey) -> None:
    path = str(plain.here.qmp_path)
    for wrong in (("--downtime", "2001s"), ("--bandwidth", "100"), ("--on-timeout", "pray")):
        assert ballonet("migrate", path, "unix:/x", *wrong).returncode == 2
    done = ballonet("migrate", path, "nonsense")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    for ours in ("--no-hints", "--verify"):
        done = ballonet("migrate", path, "unix:/x", ours)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "it does not know x-ballonet-" in done.stderr


def test_ctrl_c_leaves_the_guest_running_here_and_says_so(plain: Journey) -> None:
    before = settings(plain.watch)
    there, uri = plain.next()
    command = [BALLONET, "migrate", str(plain.here.qmp_path), uri, "--bandwidth", "1M"]
    with started(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: on_its_way(plain.watch), PATIENCE_S, "it does not begin")
        assert settings(plain.watch) != before
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    there.stop()
    assert process.returncode == 130
    assert said.splitlines() == [
        "cancelled; the VM goes on at the source",
        "",
    ]  # the ^C of a terminal
    assert settings(plain.watch) == before
    assert is_running(plain.watch)
    assert lives(plain.here)


def test_when_time_is_over_it_is_cancelled(plain: Journey) -> None:
    before = settings(plain.watch)
    there, uri = plain.next()
    done = ballonet(
        *("migrate", str(plain.here.qmp_path), uri),
        *("--bandwidth", "1M", "--timeout", "1s", "--json"),
    )
    there.stop()
    assert done.returncode == 1
    assert done.stderr == "ballonet: cancelled after 1 s; the VM goes on at the source\n"
    told = json.loads(done.stdout)
    assert (told["status"], told["timed_out"], told["source_runs"]) == ("cancelled", True, True)
    assert settings(plain.watch) == before


def test_with_post_copy_all_is_sent_and_that_is_said(hinting: Journey, tmp_path: Path) -> None:
    there, uri = hinting.next()
    switch = {"capability": "postcopy-ram", "state": True}
    with QmpClient(hinting.watch_there) as client:
        reply = client.negotiate().ask("migrate-set-capabilities", capabilities=[switch])
    if "error" in reply:
        there.stop()
        pytest.skip(f"no post-copy on this machine: {reply['error']['desc']}")
    with tapped(hinting.here.qmp_path, tmp_path / "tap") as sent:
        done = ballonet(
            *("migrate", str(tmp_path / "tap"), uri, "--postcopy", "--json"),
            *("--bandwidth", "50M", "--downtime", "1ms"),  # or it ends before the guest goes
        )
    assert done.returncode == 0, done.stderr
    assert "free page hints do nothing with post-copy" in done.stderr
    assert [one["execute"] for one in sent].count("migrate-start-postcopy") == 1
    assert json.loads(done.stdout)["transferred_bytes"] > STALE_BYTES
    hinting.arrive(there)
    assert is_running(hinting.watch)
    switch["state"] = False  # for the next way: both ends must have the same
    ask(hinting.watch, "migrate-set-capabilities", capabilities=[switch])


def moved(journey: Journey, *options: str, memory: tuple[Path, Path] | None = None) -> Any:  # noqa: ANN401 - JSON
    """Migrate it, and look at both ends; have their `memory` written where it is wanted."""
    before, was_running = settings(journey.watch), is_running(journey.watch)
    there, uri = journey.next()
    done = ballonet("migrate", str(journey.here.qmp_path), uri, "--json", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "completed"
    assert told["total_time_s"] > 0
    assert settings(journey.watch) == before
    assert ask(journey.watch, "query-status")["status"] == "postmigrate"
    assert is_running(journey.watch_there) is was_running
    for path, watch in zip(memory or (), (journey.watch, journey.watch_there), strict=False):
        ask(watch, "pmemsave", val=0, size=MEMORY_BYTES, filename=str(path))
    journey.arrive(there)
    return told | {"said": done.stderr}


@pytest.fixture(scope="module")
def stopped(plain: Journey, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[int]]:
    """A guest moved while it stood still: bytes that were sent, pages that differ."""
    folder = tmp_path_factory.mktemp("memory")
    ends = folder / "source", folder / "destination"
    ask(plain.watch, "stop")
    told = moved(plain, memory=ends)
    found = differing_pages(*ends)
    for end in ends:
        end.unlink()
    ask(plain.watch, "cont")
    return told["transferred_bytes"], found


@pytest.fixture
def plain_bytes(stopped: tuple[int, list[int]]) -> int:
    """What is sent of a guest that names nothing and is not squeezed."""
    return stopped[0]


def test_every_page_of_a_guest_that_was_stopped_before_is_at_the_destination(
    plain: Journey, stopped: tuple[int, list[int]]
) -> None:
    assert stopped[1] == []
    assert lives(plain.here)


def test_a_guest_that_names_its_free_pages_sends_less(
    hinting: Journey, plain_bytes: int, record_property: Callable[[str, object], None]
) -> None:
    # Slowly: QEMU does not wait for the guest to name its free pages before it begins to send.
    hinted_bytes = moved(hinting, "--bandwidth", "25M")["transferred_bytes"]
    record_property("migration without hints, MiB", plain_bytes / MIB)
    record_property("migration with hints, MiB", hinted_bytes / MIB)
    assert plain_bytes > STALE_BYTES
    assert hinted_bytes < 0.75 * plain_bytes


def test_a_guest_that_is_squeezed_sends_less_and_has_its_size_at_the_destination(
    plain: Journey, plain_bytes: int, record_property: Callable[[str, object], None]
) -> None:
    told = moved(plain, "--squeeze", "--bandwidth", "30M")
    record_property("migration of a squeezed guest, MiB", told["transferred_bytes"] / MIB)
    assert told["transferred_bytes"] < 0.6 * plain_bytes
    assert told["squeezed_to_bytes"] < 0.7 * MEMORY_BYTES
    assert told["said"].startswith("squeezed from 512.0 MiB to ")
    assert told["size_put_back_at"] == "destination"
    wait_until(
        lambda: ask(plain.watch, "query-balloon")["actual"] == MEMORY_BYTES,
        PATIENCE_S,
        "the guest does not get its memory back",
    )
    assert lives(plain.here)


def test_one_that_is_forced_ends_and_sends_only_what_a_migration_may(
    plain: Journey, tmp_path: Path
) -> None:
    there, uri = plain.next()
    with tapped(plain.here.qmp_path, tmp_path / "tap") as sent:
        done = ballonet(
            *("migrate", str(tmp_path / "tap"), uri, "--bandwidth", "2M"),
            *("--timeout", "2s", "--on-timeout", "force"),
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "2 s are over: the guest stands still for the rest\n"
    assert done.stdout.startswith("moved: ")
    plain.arrive(there)
    assert is_running(plain.watch)
    sent = [one for one in sent if one["execute"] != "qmp_capabilities"]
    assert {one["execute"] for one in sent} >= {"migrate", "query-migrate", "query-status"}
    assert not [
        one
        for one in sent
        if not may_be_sent(one["execute"], one.get("arguments", {}))
        and not may_be_sent_to_migrate(one["execute"], one.get("arguments", {}))
    ]


def test_how_much_a_guest_writes(plain: Journey) -> None:
    done = ballonet("dirty-rate", str(plain.here.qmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["dirty_bytes_per_s"] < 1 << 40
    assert ballonet("dirty-rate", str(plain.here.qmp_path)).stdout.startswith("the guest writes ")


def differing_pages(one: Path, other: Path) -> list[int]:
    with one.open("rb") as a, other.open("rb") as b:
        left = mmap.mmap(a.fileno(), 0, access=mmap.ACCESS_READ)
        right = mmap.mmap(b.fileno(), 0, access=mmap.ACCESS_READ)
        with left, right:
            assert len(left) == len(right) == MEMORY_BYTES
            return [
                at // PAGE
                for at in range(0, MEMORY_BYTES, PAGE)
                if left[at : at + PAGE] != right[at : at + PAGE]
            ]

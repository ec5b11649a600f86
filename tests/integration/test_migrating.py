"""A migration by QMP: in which order things are sent, and what is left after every way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.migrating_machine import MigratingMachine, OurMigratingMachine, serving

from ballonet.errors import CommandRefusedError, MigrationError, MonitorError
from ballonet.vms.addresses import connected
from ballonet.vms.migration import Migration, MigrationViewer
from ballonet.vms.migration_progress import MigrationOutcome
from ballonet.vms.migration_setup import MigrationRequest

MIB = 1 << 20
NEVER = 1e9


def look(status: str, passes: int = 1, remaining: int = 400, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    ram = {"total": 512 * MIB, "remaining": remaining * MIB, "transferred": 7 * MIB}
    return {"status": status, "ram": ram | {"dirty-sync-count": passes}} | more


ACTIVE = look("active")
DONE = look("completed", 3, 0, downtime=120) | {"total-time": 4000}


class Told:
    """The lines that a person gets."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.viewer = MigrationViewer(lambda _: None, lambda _: None, self.lines.append)


def migration(path: Path, told: Told, **wanted: Any) -> Coroutine[Any, Any, MigrationOutcome]:  # noqa: ANN401
    request = MigrationRequest("unix:/there", **wanted)
    return Migration(lambda: connected(str(path)), request, told.viewer).run()


def run(machine: MigratingMachine, folder: Path, **wanted: Any) -> tuple[MigrationOutcome, Told]:  # noqa: ANN401
    told = Told()
    with serving(machine, folder / "qmp"):
        return asyncio.run(migration(folder / "qmp", told, **wanted)), told


def interrupted(machine: MigratingMachine, folder: Path, **wanted: Any) -> Told:  # noqa: ANN401
    """Ctrl-C as soon as it is on its way, and has been steered once."""
    told = Told()

    async def interrupt() -> None:
        task = asyncio.ensure_future(migration(folder / "qmp", told, **wanted))
        await asyncio.to_thread(machine.looked.wait)
        while wanted.get("postcopy") and "migrate-start-postcopy" not in machine.names():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with serving(machine, folder / "qmp"):
        asyncio.run(interrupt())
    return told


def is_as_before(machine: MigratingMachine) -> bool:
    fresh = MigratingMachine()
    return (machine.capabilities, machine.parameters, machine.actual) == (
        fresh.capabilities,
        fresh.parameters,
        fresh.actual,
    )


def test_it_is_begun_once_followed_and_all_is_put_back(tmp_path: Path) -> None:
    machine = MigratingMachine(look("setup"), ACTIVE, look("active", 2, 3), DONE)
    outcome, told = run(machine, tmp_path, downtime_ms=50, bandwidth_bytes_per_s=9 * MIB)
    assert outcome.is_completed
    assert (outcome.look.total_time_s, outcome.look.downtime_s) == (4.0, 0.12)
    assert machine.names().count("migrate") == 1
    given = [arguments for name, arguments in machine.sent if name == "migrate-set-parameters"]
    assert given[0] == {"downtime-limit": 50, "max-bandwidth": 9 * MIB}
    begun = machine.names().index("migrate")
    assert "migrate-set-parameters" in machine.names()[:begun]
    assert "migrate-set-capabilities" in machine.names()[:begun]
    assert is_as_before(machine)
    assert not told.lines


def test_the_destination_is_asked_to_confirm(tmp_path: Path) -> None:
    machine = MigratingMachine(DONE)
    run(machine, tmp_path)
    switched = [arguments for name, arguments in machine.sent if name.endswith("capabilities")]
    assert {"capability": "return-path", "state": True} in switched[0]["capabilities"]


def test_a_destination_that_refuses_is_told_in_the_machines_words(tmp_path: Path) -> None:
    failed = look("failed") | {"error-desc": "Unable to write to socket: Broken pipe"}
    machine = MigratingMachine(ACTIVE, failed)
    outcome, _ = run(machine, tmp_path, bandwidth_bytes_per_s=MIB)
    assert not outcome.is_completed
    assert outcome.why == (
        "failed: Unable to write to socket: Broken pipe; the VM goes on at the source"
    )
    assert outcome.source_runs is True
    assert is_as_before(machine)


def test_a_machine_that_refuses_to_begin_is_left_as_it_was(tmp_path: Path) -> None:
    machine = MigratingMachine()
    machine.refuses = {"migrate"}
    with pytest.raises(CommandRefusedError, match="migrate is refused"):
        run(machine, tmp_path, downtime_ms=50, squeezes=True)
    assert "migrate_cancel" not in machine.names()
    assert is_as_before(machine)


def test_when_time_is_over_it_is_cancelled_and_the_vm_goes_on(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE)
    outcome, _ = run(machine, tmp_path, timeout_s=0.01, downtime_ms=50)
    assert outcome.why == "cancelled after 0.01 s; the VM goes on at the source"
    assert (outcome.timed_out, outcome.is_completed) == (True, False)
    assert machine.names().count("migrate_cancel") == 1
    assert is_as_before(machine)


def test_when_time_is_over_it_can_be_forced_by_the_longest_downtime(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE, ACTIVE, ACTIVE, DONE)
    outcome, told = run(machine, tmp_path, timeout_s=0.01, forces=True, downtime_ms=50)
    assert outcome.is_completed
    assert outcome.timed_out
    assert ("migrate-set-parameters", {"downtime-limit": 2_000_000}) in machine.sent
    assert "migrate_cancel" not in machine.names()
    assert machine.parameters["downtime-limit"] == 300
    assert told.lines == ["0.01 s are over: the guest stands still for the rest"]


def test_whoever_leaves_cancels_and_is_told_that_the_vm_goes_on(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE)
    told = interrupted(machine, tmp_path, bandwidth_bytes_per_s=MIB)
    assert told.lines == ["cancelled; the VM goes on at the source"]
    assert machine.names().count("migrate_cancel") == 1
    assert is_as_before(machine)


def test_a_migration_that_ends_before_it_is_cancelled_has_ended(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE)
    machine.refuses = set()
    machine.do_migrate_cancel = lambda _: machine.looks.__setitem__(slice(None), [DONE])  # type: ignore[method-assign]
    assert interrupted(machine, tmp_path).lines == ["completed: the guest is at the destination"]


def test_after_the_first_pass_the_guest_goes_and_hints_are_said_to_do_nothing(
    tmp_path: Path,
) -> None:
    machine = MigratingMachine(ACTIVE, look("active", 2), look("postcopy-active", 2), DONE)
    outcome, told = run(machine, tmp_path, postcopy=True)
    assert outcome.is_completed
    assert machine.names().count("migrate-start-postcopy") == 1
    assert told.lines == ["free page hints do nothing with post-copy: all is sent"]
    assert is_as_before(machine)


def test_post_copy_that_somebody_else_has_switched_on_does_the_same_to_hints(
    tmp_path: Path,
) -> None:
    machine = MigratingMachine(look("active", 2), DONE)
    machine.capabilities["postcopy-ram"] = True
    _, told = run(machine, tmp_path)
    assert told.lines == ["free page hints do nothing with post-copy: all is sent"]
    assert "migrate-start-postcopy" not in machine.names()
    assert machine.capabilities["postcopy-ram"] is True


@pytest.mark.parametrize("status", ["active", "postcopy-active"])
def test_once_the_guest_goes_nobody_cancels(tmp_path: Path, status: str) -> None:
    """Its memory is at both ends: to cancel would lose it, also while the status is the old one."""
    machine = MigratingMachine(look("active", 2), look(status, 2))
    told = interrupted(machine, tmp_path, postcopy=True)
    assert "migrate_cancel" not in machine.names()
    assert "post-copy cannot be cancelled" in told.lines[-2] + told.lines[-1]


def test_time_that_is_over_ends_nothing_once_the_guest_has_gone(tmp_path: Path) -> None:
    gone = look("postcopy-active", 2)
    machine = MigratingMachine(look("active", 2), gone, gone, DONE)
    outcome, _ = run(machine, tmp_path, postcopy=True, timeout_s=0.1)
    assert outcome.is_completed
    assert "migrate_cancel" not in machine.names()


def test_a_guest_does_not_go_by_post_copy_after_it_was_cancelled(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE)
    late = [look("active", 2), look("active", 2), look("cancelled")]
    machine.do_migrate_cancel = lambda _: machine.looks.__setitem__(slice(None), late)  # type: ignore[method-assign]
    outcome, _ = run(machine, tmp_path, postcopy=True, timeout_s=0.01)
    assert outcome.why.startswith("cancelled")
    assert "migrate-start-postcopy" not in machine.names()


def test_an_interrupted_post_copy_says_where_the_memory_is(tmp_path: Path) -> None:
    machine = MigratingMachine(look("active", 2), look("postcopy-paused", 2))
    outcome, _ = run(machine, tmp_path, postcopy=True)
    assert "its memory is at both ends" in outcome.why
    assert "migrate_cancel" not in machine.names()


@pytest.mark.parametrize("lost", ["query-migrate", "migrate"])
def test_a_monitor_that_is_lost_is_asked_again_and_nothing_is_begun_twice(
    tmp_path: Path, lost: str
) -> None:
    machine = MigratingMachine(ACTIVE, ACTIVE, DONE)
    if lost == "migrate":
        machine.lost_after.add(lost)
    else:
        machine.do_migrate = lambda _: machine.lost_before.add(lost)  # type: ignore[method-assign]
    outcome, _ = run(machine, tmp_path, bandwidth_bytes_per_s=MIB)
    assert outcome.is_completed
    assert machine.names().count("migrate") == 1
    assert is_as_before(machine)


def test_a_migration_that_never_arrived_is_not_begun_again(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE)
    machine.look = {"status": "failed", "error-desc": "of yesterday"}
    machine.lost_before.add("migrate")
    with pytest.raises(MigrationError, match="lost before the migration began"):
        run(machine, tmp_path, bandwidth_bytes_per_s=MIB)
    assert "migrate" not in machine.names()
    assert is_as_before(machine)


def test_a_monitor_that_stays_away_leaves_the_outcome_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ballonet.vms.migration._REACH_AGAIN_S", 0.0)
    machine, told = MigratingMachine(ACTIVE), Told()

    async def end() -> None:
        with serving(machine, tmp_path / "qmp"):
            task = asyncio.ensure_future(
                migration(tmp_path / "qmp", told, bandwidth_bytes_per_s=MIB)
            )
            await asyncio.to_thread(machine.looked.wait)
            machine.lost_before |= {"query-migrate"}
        with pytest.raises(MigrationError, match="the outcome is not known"):
            await task

    asyncio.run(end())
    assert "migrate_cancel" not in machine.names()
    assert told.lines[-1].startswith("not put back: max-bandwidth (it was 134217728)")


def test_a_machine_that_has_gone_after_the_guest_has_is_no_failure(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE, DONE)
    machine.do_migrate = lambda _: machine.lost_before.add("query-status")  # type: ignore[method-assign]
    outcome, _ = run(machine, tmp_path)
    assert outcome.is_completed
    assert outcome.source_runs is None


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ({"hints": False}, "x-ballonet-hints"),
        ({"verifies": True}, "x-ballonet-verify"),
        ({"postcopy": True}, "postcopy-ram"),
    ],
)
def test_what_a_machine_does_not_know_is_refused_before_anything_is_changed(
    tmp_path: Path, wanted: dict[str, bool], name: str
) -> None:
    machine = MigratingMachine(DONE)
    machine.capabilities.pop("postcopy-ram")
    with pytest.raises(MigrationError, match=f"it does not know {name}"):
        run(machine, tmp_path, downtime_ms=1, squeezes=True, **wanted)
    assert not machine.sent


def test_machines_that_know_them_are_told_of_hints_and_verifying(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE, DONE)
    machine.capabilities |= {"x-ballonet-hints": True, "x-ballonet-verify": False}
    outcome, _ = run(machine, tmp_path, hints=False, verifies=True)
    assert outcome.is_completed
    switched = next(arguments for name, arguments in machine.sent if name.endswith("capabilities"))
    states = {row["capability"]: row["state"] for row in switched["capabilities"]}
    assert (states["x-ballonet-hints"], states["x-ballonet-verify"]) == (False, True)
    assert machine.capabilities["x-ballonet-hints"] is True
    assert machine.capabilities["x-ballonet-verify"] is False


def test_somebody_elses_migration_is_not_touched(tmp_path: Path) -> None:
    machine = MigratingMachine(DONE)
    machine.look = ACTIVE
    with pytest.raises(MigrationError, match="another migration"):
        run(machine, tmp_path, downtime_ms=1)
    assert not machine.sent


def test_what_somebody_else_changes_meanwhile_is_not_put_back(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE, DONE)
    machine.do_migrate = lambda _: machine.parameters.update({"max-bandwidth": 77})  # type: ignore[method-assign]
    run(machine, tmp_path, bandwidth_bytes_per_s=MIB, downtime_ms=50)
    assert machine.parameters["max-bandwidth"] == 77
    assert machine.parameters["downtime-limit"] == 300


def sizes(machine: MigratingMachine) -> list[tuple[str, int | None]]:
    """Sizes that were asked for, and where the migration begins among them."""
    return [
        (name, arguments.get("value") and arguments["value"] // MIB)
        for name, arguments in machine.sent
        if name in {"balloon", "migrate", "migrate-start-postcopy"}
    ]


SQUEEZED = 100 + 64  # what it uses and the margin


def test_a_guest_is_squeezed_first_and_gets_its_size_back_before_it_goes(tmp_path: Path) -> None:
    machine = MigratingMachine(look("setup") | {"ram": {}}, ACTIVE, ACTIVE, DONE)
    outcome, told = run(machine, tmp_path, squeezes=True)
    assert sizes(machine) == [("balloon", SQUEEZED), ("migrate", None), ("balloon", 512)]
    assert outcome.squeezed_to_bytes == SQUEEZED * MIB
    assert outcome.size_put_back_at == "destination"
    assert told.lines == ["squeezed from 512.0 MiB to 164.0 MiB"]


def test_a_change_that_was_under_way_goes_on_after_squeezing(tmp_path: Path) -> None:
    machine = OurMigratingMachine(400 * MIB, look("setup") | {"ram": {}}, ACTIVE, ACTIVE, DONE)
    run(machine, tmp_path, squeezes=True)
    assert sizes(machine) == [("balloon", SQUEEZED), ("migrate", None), ("balloon", 400)]


@pytest.mark.parametrize("looks", [[DONE], [ACTIVE, DONE]])
def test_a_guest_that_may_have_gone_too_soon_is_said_to(
    tmp_path: Path, looks: list[dict[str, Any]]
) -> None:
    machine = MigratingMachine(*looks)
    outcome, told = run(machine, tmp_path, squeezes=True)
    assert outcome.is_completed
    assert outcome.size_put_back_at is None
    assert "may keep 164.0 MiB at the destination" in told.lines[-1]


def test_a_status_that_is_late_does_not_make_it_sure(tmp_path: Path) -> None:
    """QEMU is `active` while it waits for the destination's last word, but the guest stands."""
    machine = MigratingMachine(ACTIVE, ACTIVE, look("active", 2, 0), DONE)
    machine.do_balloon = lambda arguments: stop_if_large(machine, arguments)  # type: ignore[method-assign]
    outcome, _ = run(machine, tmp_path, squeezes=True)
    assert outcome.size_put_back_at is None


def stop_if_large(machine: MigratingMachine, arguments: dict[str, Any]) -> object:
    machine.actual = arguments["value"]
    machine.running = machine.actual != 512 * MIB
    return {}


def test_with_post_copy_the_size_is_put_back_right_before_the_guest_goes(tmp_path: Path) -> None:
    machine = MigratingMachine(look("active", 2), look("postcopy-active", 2), DONE)
    outcome, _ = run(machine, tmp_path, squeezes=True, postcopy=True)
    assert sizes(machine)[1:] == [
        ("migrate", None),
        ("balloon", 512),
        ("migrate-start-postcopy", None),
    ]
    assert outcome.size_put_back_at == "destination"


def test_a_guest_that_was_squeezed_in_vain_gets_its_size_back_here(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE, look("failed") | {"error-desc": "no"})
    outcome, _ = run(machine, tmp_path, squeezes=True)
    assert sizes(machine) == [("balloon", SQUEEZED), ("migrate", None), ("balloon", 512)]
    assert outcome.size_put_back_at == "source"
    machine = MigratingMachine(ACTIVE)
    (tmp_path / "qmp").unlink()
    interrupted(machine, tmp_path, squeezes=True)
    assert machine.actual == 512 * MIB


def test_a_guest_that_needs_all_or_tells_nothing_is_not_squeezed(tmp_path: Path) -> None:
    def no_stats(machine: MigratingMachine) -> None:
        machine.running = False

    def all_used(machine: MigratingMachine) -> None:
        machine.used = 500 * MIB

    cases: list[tuple[Callable[[MigratingMachine], None], str]] = [
        (no_stats, "not squeezed: the VM is paused"),
        (all_used, "not squeezed: the guest needs all that it has"),
    ]
    for change, line in cases:
        machine = MigratingMachine(DONE)
        change(machine)
        (tmp_path / "qmp").unlink(missing_ok=True)
        outcome, told = run(machine, tmp_path, squeezes=True)
        assert outcome.is_completed
        assert told.lines[0].startswith(line)
        assert "balloon" not in machine.names()


def test_a_monitor_that_talks_nonsense_before_it_begins_is_an_error_of_its_own(
    tmp_path: Path,
) -> None:
    machine = MigratingMachine()
    machine.look = {"status": 7}
    with pytest.raises(MonitorError, match="query-migrate"):
        run(machine, tmp_path, downtime_ms=1)
    assert not machine.sent


def test_an_end_is_told_with_the_figures_that_come_a_moment_later(tmp_path: Path) -> None:
    """As QEMU 7.2 does: `completed` with times of 0, and `failed` before the guest runs again."""
    early = look("completed", 3, 0, downtime=0) | {"total-time": 0}
    machine = MigratingMachine(ACTIVE, early, DONE)
    outcome, _ = run(machine, tmp_path)
    assert (outcome.look.total_time_s, outcome.look.downtime_s) == (4.0, 0.12)


def test_a_guest_that_stands_still_for_a_moment_after_a_failure_goes_on(tmp_path: Path) -> None:
    machine = MigratingMachine(ACTIVE, look("failed"))
    seen = iter([True, False, False, True, True, True])  # the first before it begins
    machine.do_query_status = lambda _: {"running": next(seen)}  # type: ignore[method-assign]
    outcome, _ = run(machine, tmp_path)
    assert outcome.why == "failed; the VM goes on at the source"


PAUSED = look("postcopy-paused", 3) | {"error-desc": "the channel broke"}


def resuming(folder: Path, *looks: dict[str, Any]) -> tuple[MigrationOutcome, MigratingMachine]:
    machine = MigratingMachine(*looks)
    machine.look = PAUSED
    outcome, told = run(machine, folder, resumes=True)
    assert told.lines == []
    assert machine.sent == [("migrate", {"uri": "unix:/there", "resume": True})]
    return outcome, machine


def test_an_interrupted_post_copy_goes_on_and_nothing_else_is_touched(tmp_path: Path) -> None:
    """As QEMU, which says so until it has found its destination."""
    again = look("postcopy-recover", 3) | {"x-ballonet-note": "told the first time"}
    outcome, _ = resuming(tmp_path, PAUSED, PAUSED, again, look("postcopy-active", 3), DONE)
    assert outcome.is_completed


def test_a_post_copy_that_is_interrupted_again_is_told(tmp_path: Path) -> None:
    more = look("postcopy-paused", 3) | {"error-desc": "it broke again"}
    outcome, _ = resuming(tmp_path, PAUSED, look("postcopy-active", 3), more)
    assert outcome.why.endswith("at both ends: it broke again")


def test_only_what_is_interrupted_can_be_resumed(tmp_path: Path) -> None:
    machine = MigratingMachine()
    machine.look = look("completed")
    with pytest.raises(MigrationError, match="no post-copy of this machine is interrupted"):
        run(machine, tmp_path, resumes=True)
    assert not machine.sent


def test_what_a_machine_wants_people_to_know_is_said_once(tmp_path: Path) -> None:
    noted = ACTIVE | {"x-ballonet-note": "look\nout"}
    _, told = run(MigratingMachine(noted, noted, DONE), tmp_path)
    assert told.lines == ["look out"]


def test_a_guest_that_has_gone_by_itself_is_not_called_back(tmp_path: Path) -> None:
    """When time was over the machine let it go."""
    machine = MigratingMachine(look("postcopy-active", 2))
    told = Told()

    async def interrupt_when_shown() -> None:
        task: asyncio.Task[MigrationOutcome] | None = None

        def show(_: object) -> None:
            if task is not None:
                task.cancel()

        told.viewer = replace(told.viewer, show=show)
        task = asyncio.ensure_future(migration(tmp_path / "qmp", told))
        with pytest.raises(asyncio.CancelledError):
            await task

    with serving(machine, tmp_path / "qmp"):
        asyncio.run(interrupt_when_shown())
    assert "post-copy cannot be cancelled" in told.lines[0]
    assert "migrate_cancel" not in machine.names()

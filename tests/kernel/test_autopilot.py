"""The autopilot over real kernels that want more than there is, one after the other."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any, Final

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.support.agent_process import AgentProcess, agent, configuration
from tests.support.turn import on_day
from tests.support.wait import PATIENCE_S

from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings

#: They see what runs on this machine, by name: one after the other.
pytestmark = [pytest.mark.xdist_group("machines by name"), pytest.mark.timeout(900)]

MIB: Final = 1 << 20
MEMORY_BYTES: Final = 256 * MIB
NAMES: Final = ("pilk-a", "pilk-b", "pilk-c", "pilk-d")
#: Five eighths of what all have together.
BUDGET_BYTES: Final = 640 * MIB
OF_FIRST: Final = {"vm": NAMES[0], "kind": "ballonet"}
BURST_MIB: Final = 120
STEP_MIB: Final = 4
#: A burst of 20 MiB/s, of memory that nobody but swap could take; it says what could not be done.
BURST: Final = f"""rm -f /tmp/burst
n=0
while [ $n -lt @MIB@ ]; do
    yes 0123456789abcde | head -c {STEP_MIB}m >> /tmp/burst || echo failed
    n=$((n + {STEP_MIB}))
    usleep 200000
done
md5sum < /tmp/burst
"""
SETTINGS: Final = (
    configuration(NAMES, period_s=1.0, poll_interval_s=1)
    + f'[autopilot]\nenable = true\nrecord_rounds = true\nbudget = "{BUDGET_BYTES}B"\n'
)


def kept_together(host: HostProcess) -> int:
    """Of what their VMM shares: a kernel in User-Mode Linux keeps some of its memory to itself."""
    return sum(int(row["memory"]) - int(row["actual"] or 0) for row in host.rows().values())


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[HostProcess, list[LinuxGuest]]]:
    """A host of four kernels."""
    with running(tmp_path_factory.mktemp("host") / "host") as host, ExitStack() as stack:
        settings = [LinuxGuestSettings(MEMORY_BYTES, socket_path=host.add(name)) for name in NAMES]
        with ThreadPoolExecutor(len(NAMES)) as together:
            guests = list(together.map(lambda one: stack.enter_context(LinuxGuest(one)), settings))
        yield host, guests


@contextmanager
def piloted(folder: Path, host: HostProcess) -> Iterator[AgentProcess]:
    """An agent that has brought them within the budget."""
    with agent(folder / "agent", SETTINGS) as pilot:
        pilot.until(lambda: kept_together(host) <= BUDGET_BYTES, "they keep more than there is")
        yield pilot


def burst(guest: LinuxGuest, mib: int = BURST_MIB) -> bool:
    """Whether all of it came to be, and is right."""
    said = guest.check(BURST.replace("@MIB@", str(mib)), PATIENCE_S)
    return said.split()[0] == md5(b"0123456789abcde\n" * (mib * MIB // 16)).hexdigest()  # noqa: S324 - busybox has it


def kills(guests: list[LinuxGuest]) -> int:
    return sum(guest.vmstat()["oom_kill"] for guest in guests)


@on_day(1, 2)  # the day on which tests/libvirt has none
def test_each_burst_is_served_and_all_together_keep_no_more_than_there_is(
    fleet: tuple[HostProcess, list[LinuxGuest]], tmp_path: Path
) -> None:
    host, guests = fleet
    with piloted(tmp_path, host) as pilot:
        for number, guest in enumerate((*guests, guests[0])):
            assert burst(guest), pilot.log()[-20:]
            if number % 2:  # two at a time have what they want
                for one in guests:
                    one.check("rm -f /tmp/burst")
        sums, changes = recorded(pilot)
    within = next(number for number, one in enumerate(sums) if one <= BUDGET_BYTES)
    assert len(sums) > within + len(guests)
    assert max(sums[within:]) <= BUDGET_BYTES
    assert kills(guests) == 0
    assert {one["vm"].partition(":")[2] for one in changes} == set(NAMES)
    assert all(one["because"] and "{" not in one["because"] for one in changes)


def recorded(pilot: AgentProcess) -> tuple[list[int], list[dict[str, Any]]]:
    """What all guests kept together in each round, and every decision."""
    lines = [
        json.loads(line) for line in (pilot.directory / "autopilot.jsonl").read_text().splitlines()
    ]
    rounds = [one["round"] for one in lines if "round" in one]
    sums = [sum(vm["actual_bytes"] for vm in one["vms"]) for one in rounds]
    return sums, [one["decision"] for one in lines if "decision" in one]


def test_no_guest_suffers_when_the_agent_is_killed_in_the_middle(
    fleet: tuple[HostProcess, list[LinuxGuest]], tmp_path: Path
) -> None:
    host, guests = fleet
    for guest in guests:
        guest.check("rm -f /tmp/burst")  # of the test before
    before = kills(guests)
    with piloted(tmp_path, host) as pilot, ThreadPoolExecutor(1) as beside:
        used = partial(pilot.value, "ballonet_autopilot_vm_used_bytes", **OF_FIRST)
        at_first = pilot.until(used, "its use is not known")
        # Less than it has: nobody is there to give it more.
        spare = guests[0].meminfo()["MemAvailable"] - 24 * MIB
        wanted_mib = max(2, spare // MIB // STEP_MIB) * STEP_MIB
        works = beside.submit(burst, guests[0], wanted_mib)
        pilot.until(lambda: (used() or 0) > at_first + wanted_mib * MIB // 4, "it uses no more")
        pilot.end(signal.SIGKILL)
        targets = {name: row["target"] for name, row in host.rows().items()}
        assert works.result(PATIENCE_S)
        assert kills(guests) == before
        assert all(guest.meminfo()["MemAvailable"] > 4 * MIB for guest in guests)
        assert {name: row["target"] for name, row in host.rows().items()} == targets
    guests[0].check("rm -f /tmp/burst")

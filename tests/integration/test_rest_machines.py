"""Machines of Firecracker's and Cloud Hypervisor's kind, before real guests of our own device."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.rest_api_facts import disagreements
from tests.support.rest_machines import RAM_BYTES, RestMachine, cloud_hypervisor, firecracker
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import CommandRefusedError, GuestError
from ballonet.vms.addresses import connected
from ballonet.vms.machine import Ability, Machine
from ballonet.vms.observation import Observation

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20


def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.fixture(scope="module")
def fire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestMachine]:
    with firecracker(tmp_path_factory.mktemp("fc"), "fc-rest-test") as machine:
        yield machine


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestMachine]:
    """Started without statistics."""
    with firecracker(tmp_path_factory.mktemp("fc"), "fc-silent-test", interval_s=0) as machine:
        yield machine


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestMachine]:
    with cloud_hypervisor(tmp_path_factory.mktemp("ch"), "ch-rest-test") as machine:
        yield machine


async def observed(address: str) -> Observation:
    async with connected(address) as vm:
        return await vm.observe()


@pytest.mark.parametrize("name", ["fc-rest-test", "ch-rest-test"])
def test_a_size_goes_into_the_balloon_of_the_real_guest(
    fire: RestMachine, cloud: RestMachine, name: str
) -> None:
    machine = fire if name.startswith("fc") else cloud
    done = ballonet("set", name, "200M", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["actual_bytes"] == 200 * MIB
    assert machine.guest.meminfo()["MemTotal"] <= 200 * MIB
    done = ballonet("set", name, "1T", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)["actual_bytes"]) == (0, RAM_BYTES)
    assert machine.guest.meminfo()["MemTotal"] > 200 * MIB


def test_firecracker_is_asked_for_whole_mib_and_the_guest_keeps_no_less(fire: RestMachine) -> None:
    done = ballonet("set", "fc-rest-test", "200.5M", "--wait", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["verdict"]) == (0, "reached")
    assert result["actual_bytes"] == result["wanted_bytes"] == 201 * MIB
    assert {"amount_mib": 55} in [one["body"] for one in fire.said()]


def test_cloud_hypervisor_is_asked_for_what_is_to_be_in_the_balloon(cloud: RestMachine) -> None:
    done = ballonet("set", "ch-rest-test", f"{200 * MIB + 1}B", "--wait", "--json")
    assert json.loads(done.stdout)["actual_bytes"] == 200 * MIB + 4096
    assert {"desired_balloon": 56 * MIB - 4096} in [one["body"] for one in cloud.said()]


@pytest.mark.usefixtures("silent")
def test_what_is_observed_is_what_is_told_and_no_more(
    fire: RestMachine, cloud: RestMachine
) -> None:
    ballonet("set", "fc-rest-test", "220M", "--wait")
    look = asyncio.run(observed("fc-rest-test"))
    assert (look.memory_bytes, look.target_bytes, look.actual_bytes) == (
        RAM_BYTES,
        220 * MIB,
        220 * MIB,
    )
    assert (look.paused, look.poll_interval_s, look.who.pid) == (False, 1, fire.pid)
    assert 0 < look.statistics["memtot"].value < 220 * MIB
    assert {one.age_s for one in look.statistics.values()} == {None}
    look = asyncio.run(observed("fc-silent-test"))
    assert (look.memory_bytes, look.target_bytes, look.actual_bytes) == (RAM_BYTES, RAM_BYTES, None)
    assert (look.statistics, look.has_driver, look.available_bytes) == ({}, None, None)
    look = asyncio.run(observed("ch-rest-test"))
    assert (look.memory_bytes, look.paused, look.who.pid) == (RAM_BYTES, False, cloud.pid)
    assert (look.statistics, look.has_driver, look.poll_interval_s) == ({}, None, None)


@pytest.mark.parametrize("name", ["fc-rest-test", "ch-rest-test"])
def test_what_the_host_holds_is_measured_and_not_told(
    fire: RestMachine, cloud: RestMachine, name: str
) -> None:
    machine = fire if name.startswith("fc") else cloud
    before_bytes = asyncio.run(observed(name)).host.held_bytes
    machine.guest.use_memory(60)
    look = asyncio.run(observed(name))
    assert before_bytes is not None
    assert look.host.held_bytes is not None
    assert look.host.held_bytes > before_bytes + 40 * MIB
    assert abs(look.host.held_bytes - machine.guest.host_memory_bytes()) < 16 * MIB


def test_statistics_are_asked_for_at_once_and_the_interval_is_put_back(fire: RestMachine) -> None:
    begun = len(fire.said())
    done = ballonet("stats", "fc-rest-test", "--json")
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)["stats"]
    assert 0 < stats["available_memory_bytes"] < stats["total_memory_bytes"] < RAM_BYTES
    changes = [one["body"] for one in fire.said()[begun:] if one["method"] == "PATCH"]
    assert changes == [{"stats_polling_interval_s": 2}, {"stats_polling_interval_s": 1}]
    assert asyncio.run(observed("fc-rest-test")).poll_interval_s == 1


def test_statistics_that_were_not_switched_on_before_the_boot_are_not_tried(
    silent: RestMachine,
) -> None:
    done = ballonet("stats", "fc-silent-test")
    assert done.returncode == 1
    assert "started without statistics of its balloon" in done.stderr
    assert [one for one in silent.said() if one["path"] == "/balloon/statistics"] == []


def test_where_the_guests_size_is_not_told_it_is_asked_and_nothing_is_claimed(
    silent: RestMachine,
) -> None:
    done = ballonet("set", "fc-silent-test", "200M", "--wait", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["verdict"], result["actual_bytes"]) == (1, "untold", None)
    assert "a size that is not known" in done.stderr
    message = "the guest does not follow"
    wait_until(lambda: silent.guest.meminfo()["MemTotal"] <= 200 * MIB, PATIENCE_S, message)
    assert ballonet("set", "fc-silent-test", "60M").returncode == 1
    assert ballonet("set", "fc-silent-test", "240M").returncode == 0


def test_less_than_a_guest_uses_is_refused_by_its_statistics_or_a_share(
    fire: RestMachine, cloud: RestMachine
) -> None:
    assert fire.guest.is_running
    assert cloud.guest.is_running
    done = ballonet("set", "fc-rest-test", "12M", "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (1, "refused")
    assert json.loads(done.stdout)["used_bytes"] is not None
    done = ballonet("set", "ch-rest-test", "80M", "--json")
    assert (done.returncode, json.loads(done.stdout)["used_bytes"]) == (1, None)


def test_the_least_is_what_the_guest_can_live_with(fire: RestMachine) -> None:
    done = ballonet("set", "fc-rest-test", "--min", "--wait", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["verdict"]) == (0, "reached")
    assert result["asked_bytes"] == result["floor_bytes"]
    assert result["floor_bytes"] <= result["actual_bytes"] < result["floor_bytes"] + MIB
    assert fire.guest.vmstat()["oom_kill"] == 0
    assert ballonet("set", "fc-rest-test", "1T", "--wait").returncode == 0
    assert ballonet("set", "fc-rest-test").returncode == 2
    assert ballonet("set", "fc-rest-test", "200M", "--min").returncode == 2


async def refusals(address: str) -> list[str]:
    """What a machine says to what it cannot do."""
    async with connected(address) as vm:
        return [
            await refusal(vm, "migration"),
            await refusal(vm, "poll"),
        ]


async def refusal(vm: Machine, what: str) -> str:
    try:
        if what == "migration":
            await vm.migration.look()
        else:
            await vm.set_poll_interval(0)
    except (GuestError, CommandRefusedError) as error:
        return str(error)
    return ""


def test_what_a_machine_cannot_do_is_said_in_its_words(
    fire: RestMachine, cloud: RestMachine
) -> None:
    assert fire.path.is_socket()
    migration, poll = asyncio.run(refusals("fc-rest-test"))
    assert "cannot be moved" in migration
    assert "Cannot enable/disable the statistics after boot" in poll
    assert all(asyncio.run(refusals(str(cloud.path))))
    assert "which has no such monitor" in ballonet("monitor", "ch-rest-test").stderr


async def abilities(address: str) -> frozenset[Ability]:
    async with connected(address) as vm:
        return vm.abilities


def test_each_declares_what_it_can_tell(
    fire: RestMachine, silent: RestMachine, cloud: RestMachine
) -> None:
    assert asyncio.run(abilities(f"firecracker:{fire.path}")) == {
        Ability.ACTUAL,
        Ability.TARGET,
        Ability.STATISTICS,
    }
    assert asyncio.run(abilities(str(silent.path))) == {Ability.TARGET}
    assert asyncio.run(abilities(str(cloud.path))) == {Ability.ACTUAL, Ability.TARGET}


def test_everything_that_was_said_is_as_the_published_descriptions_have_it(
    fire: RestMachine, silent: RestMachine, cloud: RestMachine
) -> None:
    ballonet("list", "*-rest-test")
    for machine in (fire, silent, cloud):
        said = machine.said()
        assert [one for one in said if one["status"] == 204 or one["method"] == "GET"]
        assert [fault for one in said for fault in disagreements(one)] == []

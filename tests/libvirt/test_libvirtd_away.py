"""A libvirtd that is gone, comes again, or stands still, and what is known of its domains then."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.libvirt.conftest import NAMES, Domains
from tests.support.programs import started, wait_for_listener
from tests.support.wait import PATIENCE_S, comes_true

from ballonet.errors import MonitorError
from ballonet.guests.processes import PrivateDirectory
from ballonet.vms import libvirt_api
from ballonet.vms.discovery import Found
from ballonet.vms.libvirt_calls import LibvirtCalls
from ballonet.vms.poll_keeper import PollKeeper
from ballonet.vms.watch import Watch

#: They see what runs on this machine, by name: one after the other.
pytestmark = [pytest.mark.xdist_group("machines by name"), pytest.mark.timeout(300)]

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
OTHER = "lv-other-qemu"
_ROUND_S = 0.5
CONNECTS = """
import asyncio
from ballonet.errors import MonitorError
from ballonet.vms.libvirt_machine import observe_all
try:
    asyncio.run(observe_all("qemu:///session"))
except MonitorError as error:
    print(error)
"""


@pytest.fixture
def here(domains: Domains, monkeypatch: pytest.MonkeyPatch) -> Domains:
    """Domains that this process finds, too."""
    for name, value in domains.environment.items():
        monkeypatch.setenv(name, value)
    return domains


@pytest.fixture
def other(tmp_path: Path) -> Iterator[str]:
    """A QEMU that libvirt has nothing to do with."""
    path = tmp_path / "qmp"
    command = ["qemu-system-x86_64", "-machine", "none", "-S", "-display", "none", "-nodefaults"]
    command += ["-name", OTHER, "-qmp", f"unix:{path},server=on,wait=off"]
    with started(command, stdin=subprocess.DEVNULL) as qemu:
        wait_for_listener(path)
        yield OTHER
        qemu.kill()


async def rounds(watch: Watch, until: Callable[[Sequence[Found]], bool]) -> dict[str, Found]:
    """Rounds until something is seen, which is then told by name."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await watch.round(_ROUND_S)
            if until(found):
                return {one.sighting.who.name: one for one in found}


def all_answer(found: Sequence[Found]) -> bool:
    """All three, with what they keep."""
    return len(found) == len(NAMES) and all(
        not one.why_not and one.observation.actual_bytes for one in found
    )


def none_answers(found: Sequence[Found]) -> bool:
    """What is told of each is that libvirtd does not answer."""
    return all("libvirtd does not answer" in one.why_not for one in found)


def test_a_watch_survives_the_death_of_libvirtd(here: Domains) -> None:
    async def watching() -> None:
        keeper = PollKeeper(1)
        async with Watch(["lv-*"]) as watch:
            before = await rounds(watch, all_answer)
            await keeper.keep(before.values())
            assert [here.session.period_s(name) for name in NAMES] == [1] * 3
            here.session.kill()
            away = await rounds(watch, none_answers)
            assert set(away) == set(before)
            for found in away.values():
                assert found.observation.who == found.sighting.who
                assert found.observation.memory_bytes == 256 * MIB
                assert found.observation.host.held_bytes is not None
            here.session.start()
            again = await rounds(watch, all_answer)
            assert {name: one.observation.who for name, one in again.items()} == {
                name: one.observation.who for name, one in before.items()
            }
            await keeper.put_back()

    asyncio.run(watching())
    assert [here.session.period_s(name) for name in NAMES] == [0] * 3
    assert [here.session.memory_stats(name)["actual"] for name in NAMES] == [256 << 10] * 3


def test_a_libvirtd_that_stands_still_holds_up_no_other_machine(here: Domains, other: str) -> None:
    def others_answer(found: Sequence[Found]) -> bool:
        rows = {one.sighting.who.name: one for one in found}
        return not rows.pop(other).why_not and none_answers(list(rows.values()))

    async def watching() -> None:
        async with Watch(["lv-*"]) as watch:
            await rounds(
                watch,
                lambda found: all_answer([one for one in found if one.sighting.who.name != other]),
            )
            here.session.stop_answering()
            try:
                first = await rounds(
                    watch, lambda found: any("silent" in one.why_not for one in found)
                )
                assert not first[other].why_not
                await rounds(watch, others_answer)
            finally:
                here.session.answer_again()
            await rounds(watch, lambda found: not any(one.why_not for one in found))

    asyncio.run(watching())


def test_a_libvirtd_that_stands_still_is_told_in_one_line(domains: Domains) -> None:
    def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BALLONET, *arguments],
            env=domains.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    domains.session.stop_answering()
    try:
        rows = json.loads(ballonet("list", "lv-*", "--json").stdout)
        done = ballonet("set", "lv-web", "200M")
    finally:
        domains.session.answer_again()
    assert len(rows) == len(NAMES)
    for row in rows:
        assert "libvirtd does not answer" in row["why_not"]
        assert row["host_bytes"] > 0
    assert done.returncode == 1
    assert done.stderr == "ballonet: libvirtd does not answer within 5 s\n"


def test_a_libvirtd_that_stands_still_costs_few_threads(here: Domains) -> None:
    async def answers(timeout_s: float) -> str:
        async with LibvirtCalls(here.uri) as libvirt:
            try:
                return await libvirt.call(
                    lambda link: link.lookupByName(NAMES[0]).name(), timeout_s=timeout_s
                )
            except MonitorError as error:
                return str(error)

    async def asking() -> None:
        before = threading.active_count()
        here.session.stop_answering()
        try:
            said = [await answers(0.1) for _ in range(20)]
            assert threading.active_count() - before <= 16
        finally:
            here.session.answer_again()
        assert all("libvirtd does not answer" in one for one in said)
        assert "16 calls of it are open" in said[-1]

        async def is_answered() -> bool:
            return await answers(PATIENCE_S) == NAMES[0]

        assert await comes_true(is_answered)

    asyncio.run(asking())


@pytest.mark.usefixtures("libvirt_session")
def test_looking_starts_no_libvirtd() -> None:
    with PrivateDirectory("blv-", mark="{}") as folder:
        command = [sys.executable, "-c", CONNECTS]
        if os.geteuid() == 0:  # root's session is the system's, which nobody starts
            shutil.chown(folder, "nobody")
            command = ["setpriv", "--reuid", "nobody", "--clear-groups", *command]
        names = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME")
        done = subprocess.run(
            command,
            env={**os.environ, **dict.fromkeys(names, str(folder))},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if "Permission denied" in done.stderr:
            pytest.skip("another user may not run this program")
        assert "libvirtd does not answer" in done.stdout
        assert not (folder / "libvirt/libvirt-sock").exists()


def test_libvirt_python_has_what_is_used_of_it(domains: Domains) -> None:
    libvirt = libvirt_api.load()
    connection = libvirt.openReadOnly(domains.uri)
    try:
        domain = connection.lookupByName(NAMES[0])
        for protocol, it in (
            (libvirt_api.Libvirt, libvirt),
            (libvirt_api.Connection, connection),
            (libvirt_api.Domain, domain),
        ):
            names = {*vars(protocol), *getattr(protocol, "__annotations__", {})}
            missing = [one for one in names if not one.startswith("_") and not hasattr(it, one)]
            assert missing == []
    finally:
        connection.close()

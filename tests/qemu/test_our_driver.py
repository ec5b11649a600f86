"""Our driver on QEMU's own balloon, over every bus it has."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.wait import wait_until

from ballonet.guests.qtest_machine import Bus, QtestMachine, QtestSettings
from ballonet.kernel.areas import Area
from ballonet.kernel.kernel import KernelSettings
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

MIB = 1 << 20
MEMORY_BYTES = 256 * MIB


@pytest.fixture(params=Bus)
def machine(request: pytest.FixtureRequest) -> Iterator[QtestMachine]:
    with QtestMachine(QtestSettings(MEMORY_BYTES, request.param)) as running:
        running.start_driver()
        yield running


def reach(machine: QtestMachine, pages: int) -> None:
    assert machine.driver is not None
    size = machine.driver.size
    machine.set_target(pages)
    assert machine.run_until(lambda: size.actual_pages == pages, 30)


def logical(machine: QtestMachine) -> int:
    return int(machine.command("query-balloon")["actual"])


def stats(machine: QtestMachine) -> dict[str, int]:
    path = machine.balloon_path
    return dict(machine.command("qom-get", path=path, property="guest-stats")["stats"])


def test_it_inflates_and_deflates_and_qemu_drops_the_memory(machine: QtestMachine) -> None:
    machine.do(machine.kernel.paging.touch(_area(machine, 4000), np.arange(4000), write=True))
    held = machine.memory.held_bytes
    reach(machine, 20_000)
    assert logical(machine) == MEMORY_BYTES - (20_000 << 12)
    assert machine.memory.held_bytes <= held
    reach(machine, 1234)
    assert logical(machine) == MEMORY_BYTES - (1234 << 12)
    reach(machine, 0)
    area = next(iter(machine.kernel.areas.values()))
    machine.do(machine.kernel.paging.touch(area, np.arange(4000), write=False))


def test_qemu_polls_its_statistics(machine: QtestMachine) -> None:
    name = "guest-stats-polling-interval"
    machine.command("qom-set", path=machine.balloon_path, property=name, value=1)
    assert machine.run_until(
        lambda: stats(machine)["stat-total-memory"] == machine.kernel.meminfo()["MemTotal"], 10
    )
    machine.do(machine.kernel.paging.touch(_area(machine, 8000), np.arange(8000), write=True))
    machine.run_until(
        lambda: stats(machine)["stat-free-memory"] <= machine.kernel.meminfo()["MemFree"], 10
    )
    assert stats(machine)["stat-disk-caches"] == 8000 << 12
    assert stats(machine)["stat-available-memory"] > 0


def test_what_it_reports_goes_back_to_the_host(machine: QtestMachine) -> None:
    area = _area(machine, 20_000)
    machine.do(machine.kernel.paging.touch(area, np.arange(20_000), write=True))
    assert machine.memory.held_bytes > 75 * MIB
    machine.kernel.remove_area(area)
    assert machine.run_until(lambda: machine.memory.held_bytes < 16 * MIB, 20)


def test_a_poisoning_guest_keeps_what_it_reports() -> None:
    settings = QtestSettings(MEMORY_BYTES, kernel=KernelSettings(poison=0xAA))
    with QtestMachine(settings) as machine:
        driver = machine.start_driver()
        assert Feature.PAGE_POISON in driver.negotiated
        held = machine.memory.held_bytes
        assert machine.run_until(lambda: bool(driver.reports and driver.reports.chains), 20)
        machine.run(0.2)
        assert machine.memory.held_bytes == held
        machine.do(machine.kernel.paging.touch(_area(machine, 9000), np.arange(9000), write=True))
        reach(machine, 5000)
        reach(machine, 0)


def test_packed_rings() -> None:
    settings = QtestSettings(MEMORY_BYTES)
    with QtestMachine(replace(settings, options=(*settings.options, "packed=on"))) as machine:
        driver = machine.start_driver()
        assert Feature.RING_PACKED in driver.negotiated
        reach(machine, 25_000)
        reach(machine, 0)


def test_it_leaves_and_comes_back(machine: QtestMachine) -> None:
    assert machine.driver is not None
    reach(machine, 3000)
    machine.do(machine.driver.freeze())
    assert logical(machine) == MEMORY_BYTES
    machine.do(machine.driver.restore())
    assert machine.run_until(lambda: machine.driver.size.actual_pages == 3000, 20)  # type: ignore[union-attr]
    machine.do(machine.driver.remove())
    assert logical(machine) == MEMORY_BYTES


def test_it_hints_during_a_migration_and_nothing_is_lost() -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        QtestMachine(QtestSettings(MEMORY_BYTES)) as machine,
    ):
        driver = machine.start_driver()
        machine.run(0.1)
        area = _area(machine, 6000)
        machine.do(machine.kernel.paging.touch(area, np.arange(6000), write=True))
        used = _area(machine, 10_000)
        machine.do(machine.kernel.paging.touch(used, np.arange(10_000), write=True))
        machine.kernel.remove_area(used)  # free, and not empty
        stream = Path(directory) / "stream"
        machine.command("migrate-set-parameters", max_bandwidth=4 * MIB)
        machine.command("migrate", uri=f"exec:cat > {stream}")
        assert driver.hints is not None
        assert machine.run_until(lambda: bool(driver.hints and driver.hints.blocks), 20)
        machine.run(0.3)
        assert driver.hints.rounds == 1
        machine.command("migrate-set-parameters", max_bandwidth=1 << 40)
        wait_until(
            lambda: machine.command("query-migrate")["status"] == "completed", 30, "migrated"
        )
        assert machine.run_until(lambda: not driver.hints or not driver.hints.blocks, 10)
        incoming = replace(machine.settings, incoming=f"exec:cat {stream}")
        with QtestMachine(incoming) as destination:
            wait_until(
                lambda: destination.command("query-migrate").get("status") == "completed",
                30,
                "arrived",
            )
            page = machine.kernel.page_bytes
            for frame in area.frames[::50].tolist():
                sent = destination.memory.read(frame * page, page)
                assert sent == machine.memory.read(frame * page, page)
            assert destination.memory.held_bytes < machine.memory.held_bytes - 30 * MIB


def test_a_device_without_a_feature_is_used_without_it() -> None:
    with QtestMachine(QtestSettings(MEMORY_BYTES, options=())) as machine:
        driver = machine.start_driver()
        assert set(driver.queues) == {QueueRole.INFLATE, QueueRole.DEFLATE, QueueRole.STATS}
        reach(machine, 1000)


def _area(machine: QtestMachine, pages: int) -> Area:
    return machine.kernel.add_area("file", pages)

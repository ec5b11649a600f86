"""Guests of Hyper-V's and VMware's balloon that break every rule: they lose their host at worst."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from tests.integration.siblings_under_test import KINDS, Host, running_host
from tests.support.sibling_guest import (
    ALL_CAPABILITIES,
    ANSWER,
    CALL,
    DOORBELL,
    GET_TARGET,
    LOCK,
    MESSAGE,
    PAGE,
    START,
    UNLOCK,
    WELCOME,
    RawGuest,
    frame,
    hello,
)
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.balloon.facts import Fact, GuestChanged
from ballonet.siblings import guest_connection

HUGE = 1 << 62


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path / "host", request.param) as running:
        yield running


@pytest.fixture
def vmware(tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path / "host", "vmware") as running:
        yield running


def serves_others(host: Host) -> bool:
    """A guest that keeps to the rules is welcome, after one that did not."""
    host.wait_until_free()
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        assert host.status().guest_bytes == guest.pages * PAGE
    host.wait_until_free()
    return True


def send_for_ever(guest: RawGuest, raw: bytes) -> None:
    """Raises: OSError, when the host has hung up."""
    while True:
        guest.send(raw)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough


@pytest.mark.parametrize(
    "regions",
    [
        [(0, 65 * PAGE, 0)],
        [(0, 64 * PAGE, PAGE)],
        [(0, HUGE, 0)],
        [(HUGE, HUGE, 0)],
        [(0, PAGE, (1 << 64) - PAGE)],
        [((1 << 64) - PAGE, 2 * PAGE, 0)],
        [(0, 0, 0)],
        [(0, 2 * PAGE, 0), (PAGE, 2 * PAGE, 2 * PAGE)],
    ],
)
def test_memory_that_cannot_be_is_refused(host: Host, regions: list[tuple[int, int, int]]) -> None:
    before = open_fds()
    with RawGuest(host.path) as guest:
        guest.send(hello(host.kind, regions), [guest.memory_fd] * len(regions))
        assert guest.refusal()
    assert serves_others(host)
    wait_until(lambda: open_fds() == before, PATIENCE_S, "descriptors are left open")


@pytest.mark.parametrize("count", [0, 2, 8])
def test_other_than_a_descriptor_for_each_region_is_refused(host: Host, count: int) -> None:
    with RawGuest(host.path) as guest:
        guest.send(hello(host.kind, [(0, PAGE, 0)]), [guest.memory_fd] * count)
        assert "descriptors" in guest.refusal()
    assert serves_others(host)


def test_more_descriptors_than_there_can_be_regions_are_refused(host: Host) -> None:
    before = open_fds()
    with RawGuest(host.path) as guest:
        guest.send(hello(host.kind, [(0, PAGE, 0)]), [guest.memory_fd] * 200)
        assert "descriptors" in guest.refusal()
    assert serves_others(host)
    wait_until(lambda: open_fds() == before, PATIENCE_S, "descriptors are left open")


def pipe_fd() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def read_only_fd() -> int:
    fd = os.memfd_create("read-only", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return fd


@pytest.mark.parametrize("make", [pipe_fd, read_only_fd])
def test_memory_that_is_none_or_cannot_be_given_back_is_refused(
    host: Host, make: Callable[[], int]
) -> None:
    fd = make()
    try:
        with RawGuest(host.path) as guest:
            guest.send(hello(host.kind, [(0, PAGE, 0)]), [fd])
            assert "guest memory 0x0" in guest.refusal()
    finally:
        os.close(fd)
    assert serves_others(host)


@pytest.mark.parametrize(
    "raw",
    [
        b"x" * 100,
        struct.pack("<II", 0xFFFF_FFFF, MESSAGE),
        frame(WELCOME),
        frame(MESSAGE, b"abc"),
        frame(CALL, bytes(20)),
    ],
)
def test_what_is_no_hello_is_refused(host: Host, raw: bytes) -> None:
    with RawGuest(host.path) as guest:
        guest.send(raw)
        assert guest.refusal()
    assert serves_others(host)


@pytest.mark.parametrize("length", [1, 7, 8, 30, 47])
def test_a_hello_that_ends_too_early_is_the_guest_s_loss(host: Host, length: int) -> None:
    with RawGuest(host.path) as guest:
        guest.send(hello(host.kind, [(0, PAGE, 0)])[:length], [guest.memory_fd])
        guest.socket.shutdown(socket.SHUT_WR)
        assert guest.receive() is None
    assert serves_others(host)


def test_a_guest_that_is_silent_does_not_keep_the_place(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_connection, "HELLO_NS", 1_000_000)
    with RawGuest(host.path) as guest:
        assert "who it is" in guest.refusal()
    monkeypatch.undo()
    assert serves_others(host)


@pytest.mark.parametrize(
    "raw",
    [
        frame(WELCOME),
        frame(DOORBELL, bytes(16)),
        frame(ANSWER, bytes(12)),
        struct.pack("<II", 5000, MESSAGE),
        hello("vmware", [(0, PAGE, 0)]),
        hello("hyperv", [(0, PAGE, 0)]),
    ],
)
def test_what_no_guest_says_ends_the_conversation(host: Host, raw: bytes) -> None:
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        guest.send(raw)
        assert guest.refusal()
    assert serves_others(host)


def test_the_other_protocol_is_not_spoken(host: Host) -> None:
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        guest.send(frame(MESSAGE, bytes(8)) if host.kind == "vmware" else frame(CALL, bytes(20)))
        assert "nothing that a guest of" in guest.refusal()
    assert serves_others(host)


def test_descriptors_are_for_the_hello_alone(host: Host) -> None:
    before = open_fds()
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        guest.send(frame(MESSAGE, bytes(8)), [guest.memory_fd])
        guest.socket.shutdown(socket.SHUT_WR)
        assert "descriptors" in guest.refusal()
    assert serves_others(host)
    wait_until(lambda: open_fds() == before, PATIENCE_S, "descriptors are left open")


@pytest.mark.parametrize("body", [b"", b"\x07", struct.pack("<HHI", 7, 8, 1), bytes(4096)])
def test_a_message_that_says_nothing_costs_nothing(tmp_path: Path, body: bytes) -> None:
    with running_host(tmp_path / "host", "hyperv") as host, RawGuest(host.path) as guest:
        guest.introduce("hyperv")
        guest.send(frame(MESSAGE, body) * 100)
        guest.send(frame(MESSAGE, struct.pack("<HHIII", 1, 16, 1, 2 << 16, 0)))
        assert guest.receive() == (MESSAGE, struct.pack("<HHIQ", 2, 16, 1, 1))
        assert host.status().connected


def test_a_guest_that_does_not_read_its_answers_is_cut_off(vmware: Host) -> None:
    with RawGuest(vmware.path) as guest:
        guest.introduce("vmware")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(guest, frame(CALL, struct.pack("<IQQ", GET_TARGET, 0, 0)) * 1000)
    assert serves_others(vmware)


def test_a_guest_that_reads_nothing_is_cut_off_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_connection, "DEAF_NS", 1)
    version = frame(MESSAGE, struct.pack("<HHIII", 1, 16, 1, 99 << 16, 0))
    with running_host(tmp_path / "host", "hyperv") as host, RawGuest(host.path) as guest:
        guest.introduce("hyperv")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(guest, version * 1000)
        assert serves_others(host)


def test_a_flood_keeps_nobody_from_asking_the_host(vmware: Host) -> None:
    call = frame(CALL, struct.pack("<IQQ", GET_TARGET, 0, 0)) * 100
    with RawGuest(vmware.path) as guest:
        guest.introduce("vmware")
        for target in range(1, 30):
            guest.send(call)
            vmware.set_target(target)
            assert vmware.status().target_pages == target
            for _ in range(100):
                assert guest.receive() is not None
        assert vmware.status().connected


def test_memory_that_is_cut_short_is_let_go(host: Host) -> None:
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        os.ftruncate(guest.memory_fd, PAGE)
        guest.send(
            frame(CALL, struct.pack("<IQQ", START, ALL_CAPABILITIES, 0))
            if host.kind == "vmware"
            else frame(MESSAGE, bytes(8))
        )
        guest.socket.shutdown(socket.SHUT_WR)
        assert "cut short" in guest.refusal()
    assert serves_others(host)


def test_a_second_guest_is_told_that_the_place_is_taken(host: Host) -> None:
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        with RawGuest(host.path) as other:
            assert other.refusal() == "this host has a guest already"
        assert host.status().connected
    assert serves_others(host)


def test_a_guest_that_comes_again_before_it_is_missed_has_its_place(host: Host) -> None:
    is_over = Event()
    with RawGuest(host.path) as guest:
        guest.introduce(host.kind)
        host.control.server.loop.put(is_over.wait)  # meanwhile the host looks at nothing
        with RawGuest(host.path) as again:
            guest.socket.close()
            is_over.set()
            again.introduce(host.kind)
    assert serves_others(host)


def test_pages_are_the_host_s_only_as_long_as_the_guest_says_so(vmware: Host) -> None:
    facts: list[Fact] = []
    vmware.control.subscribe(facts.append)
    vmware.set_target(32)
    with RawGuest(vmware.path) as guest:
        for page in range(guest.pages):
            os.pwrite(guest.memory_fd, bytes([page + 1]), page * PAGE)
        guest.introduce("vmware")
        assert guest.call(START, ALL_CAPABILITIES)[1] == ALL_CAPABILITIES
        for page in range(32):
            assert guest.call(LOCK, page, 1) == (0, 32)
        assert guest.call(LOCK, 40, 1)[0] != 0  # not needed
        assert guest.call(LOCK, 5, 1)[0] != 0  # locked already
        assert guest.call(LOCK, 1 << 40, 1)[0] != 0
        assert guest.call(UNLOCK, 7, 1)[0] == 0
        for page in (5, 7):  # what it held may have been dropped before; this must not be
            os.pwrite(guest.memory_fd, b"new", page * PAGE)
        vmware.control.expedite().result(PATIENCE_S)
        wait_until(lambda: not vmware.status().waiting_bytes, PATIENCE_S, "memory waits")
        kept = [page for page in range(64) if os.pread(guest.memory_fd, 1, page * PAGE) != b"\0"]
        # A page that was locked twice may be the guest's, and is let alone.
        assert kept == [5, 7, *range(32, 64)]
        assert vmware.status().actual_pages == 31
    vmware.wait_until_free()
    assert vmware.status().actual_pages == 0
    assert sum(isinstance(fact, GuestChanged) for fact in facts) == 2

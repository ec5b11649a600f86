"""Front-ends and drivers that break the rules: the back-end lives, loses nothing, serves the next.

The back-end runs in a process of its own, one for the whole module, so that what is leaked adds up
and what kills it kills only one test.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.integration.device_under_test import SECONDS, DeviceProcess
from tests.support.driver_ring import F_INDIRECT, F_NEXT, F_WRITE, Buffer
from tests.support.front_end import FrontEnd, TableRegion
from tests.support.guest_memory import MIB, PAGE_BYTES, GuestRam, RamRegion
from tests.support.scripts import EVERYTHING, VERSION_1, start_qemu, start_uml
from tests.support.session import DEFLATE, INFLATE, STATS, Session
from tests.support.wait import wait_until
from tests.support.wire import (
    HEADER,
    NEED_REPLY,
    REPLY,
    U64,
    VERSION,
    ClosedError,
    RefusedError,
    Req,
)

UVA = 0x7F00_0000_0000
ONE = TableRegion(0, MIB, UVA, 0)
PROTOCOL_ALL = (1 << 21) - 1
CONNECTIONS = 200


class Host:
    """Starts the back-end, and starts it again if a test has killed it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._device: DeviceProcess | None = None
        self._starts = 0
        self.idle_fds = 0  #: descriptors of a back-end without front-end

    def device(self) -> DeviceProcess:
        if self._device is None or not self._device.is_alive():
            self._starts += 1
            path = self._folder / f"balloon-{self._starts}.sock"
            self._device = DeviceProcess(path, self._folder / f"stderr-{self._starts}")
            serve_one_guest(self._device)  # what it opens once for all guests is open then
            with FrontEnd.connect(path) as front_end:
                front_end.get_features()
                self.idle_fds = self._device.open_fds() - 1  # less the connection
        return self._device

    def wait_until_idle(self) -> None:
        """No front-end is left, nor anything that one brought along."""
        device = self.device()
        wanted: tuple[int, list[str]] = (self.idle_fds, [])
        wait_until(
            lambda: (device.open_fds(), device.guest_mappings()) == wanted,
            SECONDS,
            f"{self.idle_fds} descriptors and no guest memory are expected",
        )

    @contextmanager
    def ending_on_error(self) -> Iterator[None]:
        """Where the block fails, the next test gets a back-end of its own."""
        try:
            yield
        except BaseException:
            if self._device is not None:
                self._device.stop()
                self._device = None
            raise

    def stop(self) -> None:
        if self._device is not None and self._device.is_alive():
            assert self._device.stop() == 0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    started = Host(tmp_path_factory.mktemp("host"))
    yield started
    started.stop()


@pytest.fixture
def device(host: Host) -> Iterator[DeviceProcess]:
    """A back-end that must live, give everything back, and serve a good front-end after."""
    running = host.device()
    yield running
    with host.ending_on_error():
        serve_one_guest(running)
        host.wait_until_idle()
        log = running.log()
        assert "bug in ballonet" not in log, log
        assert "Traceback" not in log, log


def serve_one_guest(device: DeviceProcess) -> None:
    """Start, give a page away, leave; tried again while the device still parts with the last."""

    def attempt() -> bool:
        try:
            guest = start_qemu(device)
        except (ClosedError, BrokenPipeError, ConnectionResetError):
            return False  # turned away: there is another front-end still
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise AssertionError(f"the back-end has ended:\n{device.log()}") from error
        with guest:
            first, _ = guest.free_range()
            guest.ram.fill(first, 2)
            guest.inflate([first])
            assert guest.ram.changed_pages(first, 2) == {first}
        return True

    wait_until(attempt, SECONDS, f"a good front-end is not served:\n{device.log()}")


def message(request: int, payload: bytes = b"", flags: int = VERSION) -> bytes:
    return HEADER.pack(request, flags, len(payload)) + payload


def negotiated(device: DeviceProcess, *, acks: bool) -> FrontEnd:
    """A front-end that has all protocol features, and asks for acknowledgements or not."""
    front_end = FrontEnd.connect(device.path)
    front_end.set_owner()
    front_end.get_features()
    front_end.set_protocol_features(front_end.get_protocol_features())
    front_end.wire.asks_acks = acks
    return front_end


def assert_refused(front_end: FrontEnd, action: Callable[[], None]) -> None:
    """The action is answered with an error, and the connection goes on."""
    with pytest.raises(RefusedError):
        action()
    assert front_end.get_features()


def send_and_expect_hang_up(device: DeviceProcess, data: bytes, fds: list[int]) -> None:
    with negotiated(device, acks=False) as front_end:
        with suppress(BrokenPipeError, ConnectionResetError):
            front_end.wire.send_raw(data, fds)
        assert front_end.wire.is_closed(SECONDS)


GARBAGE = {
    "noise": bytes(range(1, 256)) * 16,
    "ones": b"\xff" * 4096,
    "zeros": bytes(4096),
    "version 0": message(Req.GET_FEATURES, flags=0),
    "version 2": message(Req.GET_FEATURES, flags=2),
    "a reply": message(Req.GET_FEATURES, flags=VERSION | REPLY),
    "unknown flags": message(Req.GET_FEATURES, flags=VERSION | 1 << 31),
    "payload of 4 GiB": HEADER.pack(Req.SET_FEATURES, VERSION, 0xFFFF_FFFF),
    "payload of 1 MiB": HEADER.pack(Req.SET_FEATURES, VERSION, MIB),
    "request 0": message(0),
    "request 19": message(19, bytes(8)),
    "request 255": message(255),
    "request 2^32 - 1": message(0xFFFF_FFFF),
}


@pytest.mark.parametrize("data", list(GARBAGE.values()), ids=list(GARBAGE))
def test_a_front_end_that_sends_garbage_is_hung_up_on(device: DeviceProcess, data: bytes) -> None:
    send_and_expect_hang_up(device, data, [])


@pytest.mark.parametrize("data", list(GARBAGE.values()), ids=list(GARBAGE))
def test_descriptors_that_come_with_garbage_are_closed(device: DeviceProcess, data: bytes) -> None:
    with open(os.devnull, "rb") as null:  # noqa: PTH123 - only its descriptor is wanted
        send_and_expect_hang_up(device, data, [null.fileno()] * 3)


def test_an_unknown_request_that_wants_an_acknowledgement_is_refused(
    device: DeviceProcess,
) -> None:
    with negotiated(device, acks=True) as front_end:
        front_end.wire.send_raw(message(0xFFFF, bytes(8), VERSION | NEED_REPLY))
        answer = message(0xFFFF, U64.pack(1), VERSION | REPLY)
        assert front_end.wire.receive_raw(len(answer)) == answer
        assert front_end.get_features()


LENGTHS = {
    Req.SET_FEATURES: 8,
    Req.SET_MEM_TABLE: 40,
    Req.SET_VRING_NUM: 8,
    Req.SET_VRING_ADDR: 40,
    Req.SET_VRING_BASE: 8,
    Req.SET_VRING_CALL: 8,
    Req.SET_VRING_KICK: 8,
    Req.SET_VRING_ENABLE: 8,
    Req.SET_PROTOCOL_FEATURES: 8,
    Req.SET_CONFIG: 16,
    Req.ADD_MEM_REG: 40,
    Req.REM_MEM_REG: 40,
    Req.SET_STATUS: 8,
    Req.SET_OWNER: 0,
    Req.RESET_DEVICE: 0,
}


@pytest.mark.parametrize("request_code", list(LENGTHS), ids=[one.name for one in LENGTHS])
def test_a_message_of_the_wrong_length_is_refused_and_changes_nothing(
    device: DeviceProcess, request_code: Req
) -> None:
    right = LENGTHS[request_code]
    with negotiated(device, acks=True) as front_end:
        for wrong in {max(right - 1, 0), right + 1, 0, 4, right + 3} - {right}:
            payload = struct.pack("=I", 1).ljust(wrong, b"\0")[:wrong]

            def send(payload: bytes = payload) -> None:
                front_end.wire.tell(request_code, payload)

            assert_refused(front_end, send)


@pytest.mark.parametrize("code", [Req.GET_VRING_BASE, Req.GET_CONFIG, Req.GET_FEATURES])
def test_a_query_of_the_wrong_length_ends_the_connection_even_if_acks_are_asked_for(
    device: DeviceProcess, code: Req
) -> None:
    send_and_expect_hang_up(device, message(code, bytes(5), VERSION | NEED_REPLY), [])


@pytest.mark.parametrize("size", [0, 3, 257, 0xFFFF_FFFF])
def test_a_config_size_that_is_not_what_was_sent_ends_the_connection(
    device: DeviceProcess, size: int
) -> None:
    payload = struct.pack("=III", 0, size, 0) + bytes(4)
    send_and_expect_hang_up(device, message(Req.GET_CONFIG, payload), [])


@pytest.mark.parametrize(
    ("regions", "fds"),
    [(1, 0), (0, 1), (1, 2), (2, 1), (8, 7), (9, 8), (8, 9), (1, 16), (1, 64), (8, 250)],
)
def test_a_memory_table_whose_descriptors_do_not_match_is_never_taken(
    device: DeviceProcess, regions: int, fds: int
) -> None:
    table = [TableRegion(i * MIB, MIB, UVA + i * MIB, 0) for i in range(regions)]
    with (
        GuestRam([RamRegion(0, MIB, UVA)]) as ram,
        negotiated(device, acks=True) as front_end,
        pytest.raises((RefusedError, ClosedError, ConnectionResetError, BrokenPipeError)),
    ):
        front_end.set_mem_table(table, [ram.fd(ram.regions[0])] * fds)


@pytest.mark.parametrize("code", [Req.SET_OWNER, Req.SET_FEATURES, Req.SET_VRING_NUM])
def test_descriptors_nobody_asked_for_are_refused_and_closed(
    device: DeviceProcess, code: Req
) -> None:
    with (
        GuestRam([RamRegion(0, MIB, UVA)]) as ram,
        negotiated(device, acks=True) as front_end,
    ):
        fds = [ram.fd(ram.regions[0])] * 8
        assert_refused(front_end, lambda: front_end.wire.tell(code, bytes(LENGTHS[code]), fds))


@pytest.mark.parametrize("code", [Req.SET_VRING_KICK, Req.SET_VRING_CALL, Req.SET_VRING_ERR])
@pytest.mark.parametrize(("value", "fds"), [(0, 0), (0, 2), (0x100, 1), (200, 1), (0x1C8, 0)])
def test_a_vring_descriptor_that_is_missing_surplus_or_of_no_queue_is_refused(
    device: DeviceProcess, code: Req, value: int, fds: int
) -> None:
    with (
        open(os.devnull, "rb") as null,  # noqa: PTH123 - only its descriptor is wanted
        negotiated(device, acks=True) as front_end,
    ):
        sent = [null.fileno()] * fds
        assert_refused(front_end, lambda: front_end.wire.tell(code, U64.pack(value), sent))


def test_a_kick_that_cannot_be_waited_for_is_refused(device: DeviceProcess, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with plain.open("rb") as file, negotiated(device, acks=True) as front_end:
        assert_refused(
            front_end,
            lambda: front_end.wire.tell(Req.SET_VRING_KICK, U64.pack(0), [file.fileno()]),
        )


def test_a_backend_channel_without_descriptor_is_refused(device: DeviceProcess) -> None:
    with negotiated(device, acks=True) as front_end:
        assert_refused(front_end, lambda: front_end.wire.tell(Req.SET_BACKEND_REQ_FD))


TOP = 1 << 64
BAD_TABLES = {
    "overlapping guest addresses": [ONE, TableRegion(MIB - 1, MIB, UVA + 4 * MIB, 0)],
    "same guest addresses": [ONE, TableRegion(0, MIB, UVA + 4 * MIB, 0)],
    "overlapping user addresses": [ONE, TableRegion(4 * MIB, MIB, UVA + MIB - PAGE_BYTES, 0)],
    "empty": [TableRegion(0, 0, UVA, 0)],
    "guest addresses overflow": [TableRegion(TOP - PAGE_BYTES, 2 * PAGE_BYTES, UVA, 0)],
    "user addresses overflow": [TableRegion(0, MIB, TOP - PAGE_BYTES, 0)],
    "size overflows": [TableRegion(PAGE_BYTES, TOP - 1, UVA, 0)],
    "offset overflows": [TableRegion(0, MIB, UVA, TOP - MIB)],
    "offset and size overflow": [TableRegion(0, TOP - PAGE_BYTES, UVA, PAGE_BYTES)],
    "offset at 2^63": [TableRegion(0, MIB, UVA, 1 << 63)],
    "beyond the file": [TableRegion(0, 2 * MIB, UVA, 0)],
    "one byte beyond the file": [TableRegion(0, MIB + 1, UVA, 0)],
    "beyond the file by its offset": [TableRegion(0, MIB, UVA, PAGE_BYTES)],
    "good before bad": [ONE, TableRegion(8 * MIB, 2 * MIB, UVA + 8 * MIB, 0)],
}


@pytest.mark.parametrize("table", list(BAD_TABLES.values()), ids=list(BAD_TABLES))
def test_a_memory_table_that_cannot_be_is_refused(
    device: DeviceProcess, table: list[TableRegion]
) -> None:
    with (
        GuestRam([RamRegion(0, MIB, UVA)]) as ram,
        negotiated(device, acks=True) as front_end,
    ):
        fds = [ram.fd(ram.regions[0])] * len(table)
        assert_refused(front_end, lambda: front_end.set_mem_table(table, fds))


@pytest.mark.parametrize("table", list(BAD_TABLES.values()), ids=list(BAD_TABLES))
def test_a_bad_region_that_is_added_later_is_refused_and_the_guest_goes_on(
    device: DeviceProcess, table: list[TableRegion]
) -> None:
    bad = table[-1]
    with GuestRam([RamRegion(0, MIB, UVA)]) as ram, start_qemu(device) as guest:
        fd = ram.fd(ram.regions[0])
        assert_refused(guest.front_end, lambda: guest.front_end.add_mem_reg(bad, [fd]))
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "null device", "write-only file"])
def test_a_region_of_something_that_cannot_be_mapped_is_refused(
    device: DeviceProcess, kind: str, tmp_path: Path
) -> None:
    fds: list[int] = []
    match kind:
        case "pipe":
            fds += os.pipe()
        case "socket":
            fds.append(socket.socket(socket.AF_UNIX).detach())
        case "folder":
            fds.append(os.open(tmp_path, os.O_RDONLY))
        case "null device":
            fds.append(os.open(os.devnull, os.O_RDWR))
        case _:
            fds.append(os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY))
            os.ftruncate(fds[0], MIB)
    try:
        with negotiated(device, acks=True) as front_end:
            assert_refused(front_end, lambda: front_end.set_mem_table([ONE], fds[:1]))
    finally:
        for fd in fds:
            os.close(fd)


def test_a_refused_memory_table_leaves_the_old_one_in_force(device: DeviceProcess) -> None:
    with start_uml(device) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 2)
        fd = guest.ram.fd(guest.ram.regions[0])
        assert_refused(
            guest.front_end,
            lambda: guest.front_end.set_mem_table([TableRegion(0, 1 << 40, UVA, 0)], [fd]),
        )
        guest.inflate([first])
        assert guest.ram.changed_pages(first, 2) == {first}


@pytest.mark.parametrize(
    ("desc", "avail", "used"), [(8, 0, 0), (0, 1, 0), (0, 0, 2), (1, 1, 1), (0, 0, 1)]
)
def test_unaligned_rings_are_refused(
    device: DeviceProcess, desc: int, avail: int, used: int
) -> None:
    with start_uml(device) as guest:
        at = guest.ring_uvas(INFLATE)
        moved = (at[0] + desc, at[1] + avail, at[2] + used)
        assert_refused(guest.front_end, lambda: guest.front_end.set_vring_addr(INFLATE, moved))


def test_rings_outside_memory_or_half_outside_are_refused(device: DeviceProcess) -> None:
    with start_uml(device) as guest:
        region = guest.ram.regions[0]
        good, end = guest.ring_uvas(INFLATE), region.uva + region.size
        for outside in (0, region.uva - 16, end - 16, end, TOP - 16):
            for part in range(3):
                bad = (*good[:part], outside, *good[part + 1 :])
                moved = (bad[0], bad[1], bad[2])

                def move(moved: tuple[int, int, int] = moved) -> None:
                    guest.front_end.set_vring_addr(INFLATE, moved)

                assert_refused(guest.front_end, move)
        guest.front_end.set_vring_addr(INFLATE, good)
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0


@pytest.mark.parametrize("num", [0, 3, 255, 1 << 16, 0xFFFF_FFFF])
def test_queue_sizes_that_cannot_be_are_refused(device: DeviceProcess, num: int) -> None:
    with negotiated(device, acks=True) as front_end:
        assert_refused(front_end, lambda: front_end.set_vring_num(0, num))


@pytest.mark.parametrize("base", [1 << 16, 0xFFFF_FFFF])
def test_bases_that_cannot_be_are_refused(device: DeviceProcess, base: int) -> None:
    with negotiated(device, acks=True) as front_end:
        assert_refused(front_end, lambda: front_end.set_vring_base(0, base))


@pytest.mark.parametrize("queue", [5, 200, 255, 0xFFFF_FFFF])
def test_a_queue_that_does_not_exist_is_refused(device: DeviceProcess, queue: int) -> None:
    with negotiated(device, acks=True) as front_end:
        assert_refused(front_end, lambda: front_end.set_vring_num(queue, 128))
        assert_refused(front_end, lambda: front_end.set_vring_base(queue, 0))
        assert_refused(front_end, lambda: front_end.set_vring_addr(queue, (0, 0, 0)))
        assert_refused(front_end, lambda: front_end.set_vring_enable(queue, 1))


@pytest.mark.parametrize("queue", [5, 200, 0xFFFF_FFFF])
def test_the_base_of_a_queue_that_does_not_exist_ends_the_connection(
    device: DeviceProcess, queue: int
) -> None:
    payload = struct.pack("=II", queue, 0)
    send_and_expect_hang_up(device, message(Req.GET_VRING_BASE, payload), [])


def test_features_that_were_not_offered_do_not_reach_the_device(device: DeviceProcess) -> None:
    with negotiated(device, acks=True) as front_end:
        offered = front_end.get_features()
        with suppress(RefusedError):
            front_end.set_features(EVERYTHING)
        assert front_end.get_features() == offered


TABLE_MESSAGE = struct.pack("=II", 1, 0) + struct.pack("=QQQQ", *ONE)
CUTS = {
    "after the first byte": (message(Req.SET_FEATURES, bytes(8))[:1], 0),
    "half-way through the header": (message(Req.SET_FEATURES, bytes(8))[:6], 0),
    "after the header": (message(Req.SET_FEATURES, bytes(8))[:12], 0),
    "half-way through the payload": (message(Req.SET_FEATURES, bytes(8))[:16], 0),
    "half-way through the header with a descriptor": (message(5, TABLE_MESSAGE)[:6], 1),
    "after the header with a descriptor": (message(5, TABLE_MESSAGE)[:12], 1),
    "half-way through the payload with a descriptor": (message(5, TABLE_MESSAGE)[:30], 1),
    "half-way through the payload with eight": (message(5, TABLE_MESSAGE)[:30], 8),
}


@pytest.mark.parametrize(("data", "fds"), list(CUTS.values()), ids=list(CUTS))
def test_a_front_end_that_leaves_in_the_middle_of_a_message_takes_nothing_along(
    device: DeviceProcess, data: bytes, fds: int
) -> None:
    with GuestRam([RamRegion(0, MIB, UVA)]) as ram, FrontEnd.connect(device.path) as front_end:
        front_end.wire.send_raw(data, [ram.fd(ram.regions[0])] * fds)


@pytest.mark.parametrize("cut", range(1, 12 + 40))
def test_a_message_may_come_in_two_pieces(device: DeviceProcess, cut: int) -> None:
    with (
        GuestRam([RamRegion(0, MIB, UVA)]) as ram,
        negotiated(device, acks=True) as front_end,
    ):
        whole = message(Req.SET_MEM_TABLE, TABLE_MESSAGE, VERSION | NEED_REPLY)
        front_end.wire.send_raw(whole[:cut], [ram.fd(ram.regions[0])])
        front_end.wire.send_raw(whole[cut:])
        assert front_end.wire.ack(Req.SET_MEM_TABLE) == 0


def test_many_messages_may_come_in_one_piece(device: DeviceProcess) -> None:
    with negotiated(device, acks=False) as front_end:
        front_end.wire.send_raw(message(Req.GET_FEATURES) * 50)
        assert len({front_end.wire.receive(Req.GET_FEATURES) for _ in range(50)}) == 1


def test_a_front_end_that_never_reads_its_replies_is_hung_up_on(device: DeviceProcess) -> None:
    flood = message(Req.GET_FEATURES) * 100_000
    with (
        FrontEnd.connect(device.path) as front_end,
        pytest.raises((BrokenPipeError, ConnectionResetError)),
    ):
        front_end.wire.send_raw(flood)


def test_two_hundred_front_ends_that_vanish_leave_nothing_behind(
    host: Host, device: DeviceProcess
) -> None:
    for _ in range(20):
        serve_one_guest(device)
    host.wait_until_idle()
    before = len(device.map_lines())
    for _ in range(CONNECTIONS):
        serve_one_guest(device)
    host.wait_until_idle()
    assert len(device.map_lines()) <= before + CONNECTIONS // 50  # the heap may grow by a piece


def test_a_second_front_end_is_turned_away_and_the_first_goes_on(device: DeviceProcess) -> None:
    with start_qemu(device) as guest:
        with FrontEnd.connect(device.path) as second:
            assert second.wire.is_closed(SECONDS)
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0


def test_descriptors_set_again_and_again_are_closed(device: DeviceProcess) -> None:
    with start_qemu(device) as guest:
        before = device.open_fds()
        for _ in range(300):
            guest.front_end.set_vring_kick(INFLATE)
            guest.front_end.set_vring_call(INFLATE)
            guest.front_end.set_vring_err(INFLATE)
            guest.front_end.set_backend_req_fd()
        guest.front_end.get_features()
        assert device.open_fds() == before
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0


def cut_short(guest: Session) -> None:
    """Cut the memory's file short; from here on this process must not touch it either."""
    guest.ram.truncate(guest.ram.regions[0], 0)


def kick(guest: Session) -> None:
    guest.front_end.kick(INFLATE)


def enable_again(guest: Session) -> None:
    guest.front_end.set_vring_enable(INFLATE, 0)
    guest.front_end.set_vring_enable(INFLATE, 1)


def describe_again(guest: Session) -> None:
    guest.front_end.set_vring_addr(INFLATE, guest.ring_uvas(INFLATE))


def kick_anew(guest: Session) -> None:
    guest.front_end.set_vring_kick(INFLATE)


def negotiate_again(guest: Session) -> None:
    guest.front_end.set_features(guest.driver_features | 1 << 30)


def stop(guest: Session) -> None:
    guest.front_end.get_vring_base(INFLATE)


@pytest.mark.parametrize(
    "action",
    [kick, enable_again, describe_again, kick_anew, negotiate_again, stop],
    ids=lambda action: str(action.__name__),
)
def test_memory_whose_file_is_cut_short_does_not_kill_the_back_end(
    device: DeviceProcess, action: Callable[[Session], None]
) -> None:
    with start_uml(device) as guest:
        first, _ = guest.free_range()
        guest.inflate([first])
        guest.front_end.get_features()  # answered when the device is done with all rings
        guest.rings[INFLATE].add([guest.write_pfns(INFLATE, [first])])
        guest.rings[INFLATE].publish()
        cut_short(guest)
        with suppress(RefusedError, ClosedError, ConnectionResetError, BrokenPipeError):
            action(guest)
            guest.front_end.get_features()


def loop_to_itself(guest: Session) -> None:
    guest.rings[INFLATE].write_descriptor(0, guest.buffer_gpa(INFLATE), 4, F_NEXT, 0)


def loop_of_two(guest: Session) -> None:
    for i in (0, 1):
        guest.rings[INFLATE].write_descriptor(i, guest.buffer_gpa(INFLATE), 4, F_NEXT, 1 - i)


def next_outside(guest: Session) -> None:
    guest.rings[INFLATE].write_descriptor(0, guest.buffer_gpa(INFLATE), 4, F_NEXT, 0xFFFF)


def readable_after_writable(guest: Session) -> None:
    ring, gpa = guest.rings[INFLATE], guest.buffer_gpa(INFLATE)
    ring.write_descriptor(0, gpa, 4, F_WRITE | F_NEXT, 1)
    ring.write_descriptor(1, gpa, 4, 0, 0)


def indirect_of_half_an_entry(guest: Session) -> None:
    guest.rings[INFLATE].write_descriptor(0, guest.buffer_gpa(INFLATE), 8, F_INDIRECT, 0)


def indirect_of_nothing(guest: Session) -> None:
    guest.rings[INFLATE].write_descriptor(0, guest.buffer_gpa(INFLATE), 0, F_INDIRECT, 0)


def indirect_outside_memory(guest: Session) -> None:
    guest.rings[INFLATE].write_descriptor(0, 1 << 60, 16, F_INDIRECT, 0)


def indirect_in_indirect(guest: Session) -> None:
    table = guest.buffer_gpa(INFLATE)
    guest.ram.write(table, struct.pack("<QIHH", table, 16, F_INDIRECT, 0))
    guest.rings[INFLATE].write_descriptor(0, table, 16, F_INDIRECT, 0)


def indirect_that_loops(guest: Session) -> None:
    table = guest.buffer_gpa(INFLATE)
    guest.ram.write(table, struct.pack("<QIHH", table, 16, F_NEXT, 0))
    guest.rings[INFLATE].write_descriptor(0, table, 16, F_INDIRECT, 0)


def head_outside(guest: Session) -> None:
    guest.split_ring(INFLATE).set_avail_entry(0, guest.queue_size)


def index_that_jumps(guest: Session) -> None:
    guest.split_ring(INFLATE).set_avail_idx(guest.queue_size + 1)


BREAKS: list[Callable[[Session], None]] = [
    loop_to_itself,
    loop_of_two,
    next_outside,
    readable_after_writable,
    indirect_of_half_an_entry,
    indirect_of_nothing,
    indirect_outside_memory,
    indirect_in_indirect,
    indirect_that_loops,
    head_outside,
    index_that_jumps,
]


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: str(breaks.__name__))
def test_a_driver_that_breaks_a_ring_is_reported_and_stops_only_its_own_device(
    device: DeviceProcess, breaks: Callable[[Session], None]
) -> None:
    with start_qemu(device) as guest:
        guest.split_ring(INFLATE).set_avail_entry(0, 0)
        breaks(guest)
        if guest.rings[INFLATE].avail_idx == 0 and breaks is not index_that_jumps:
            guest.split_ring(INFLATE).set_avail_idx(1)
        guest.front_end.kick(INFLATE)
        assert guest.front_end.wait_err(INFLATE)
        assert guest.rings[INFLATE].used_idx == 0
        assert guest.front_end.get_config(0, 16)
        assert guest.front_end.get_status() & 64, "NEEDS_RESET is not set"


def test_a_broken_device_works_again_after_it_was_stopped_and_set_up_anew(
    device: DeviceProcess,
) -> None:
    with start_uml(device) as guest:
        loop_to_itself(guest)
        guest.split_ring(INFLATE).set_avail_entry(0, 0)
        guest.split_ring(INFLATE).set_avail_idx(1)
        guest.front_end.kick(INFLATE)
        for queue in (STATS, DEFLATE, INFLATE):
            guest.front_end.set_vring_enable(queue, 0)
        for queue in (INFLATE, DEFLATE, STATS):
            ring = guest.make_ring(queue, event_idx=True)
            guest.front_end.set_vring_num(queue, ring.size)
            guest.front_end.set_vring_base(queue, 0)
            guest.front_end.set_vring_addr(queue, guest.ring_uvas(queue))
            guest.front_end.set_vring_enable(queue, 1)
        first, _ = guest.free_range()
        assert guest.inflate([first]).length == 0


@pytest.mark.parametrize(
    ("gpa", "length"), [(1 << 60, 4), (TOP - 4, 8), (0xA_0000 - 2, 4), (0, 0xFFFF_FFFF)]
)
def test_a_message_outside_memory_is_returned_unread_and_the_ring_goes_on(
    device: DeviceProcess, gpa: int, length: int
) -> None:
    with start_qemu(device) as guest:
        assert guest.transact(INFLATE, [Buffer(gpa, length)]).length == 0
        first, _ = guest.free_range()
        guest.ram.fill(first, 2)
        guest.inflate([first])
        assert guest.ram.changed_pages(first, 2) == {first}


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 1023])
def test_a_message_that_is_no_whole_number_of_entries_is_returned(
    device: DeviceProcess, length: int
) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        gpa = guest.write_pfns(INFLATE, [first] * 256).gpa
        assert guest.transact(INFLATE, [Buffer(gpa, length)]).length == 0


def test_a_gibibyte_of_page_numbers_does_not_keep_the_socket_waiting(
    device: DeviceProcess,
) -> None:
    with start_qemu(device) as guest:
        ring, gpa = guest.rings[INFLATE], guest.ram.regions[-1].gpa
        for _ in range(64):
            ring.add([Buffer(gpa, 4 * MIB)])
        ring.publish()
        guest.front_end.kick(INFLATE)
        assert guest.front_end.get_features()
        answered = 0
        while answered < 64:
            answered += len(guest.wait_used(INFLATE))


def test_statistics_of_any_length_are_kept(device: DeviceProcess) -> None:
    with start_qemu(device) as guest:
        previous = None
        for length in (1, 8, 9, 10, 4096, 32768):
            head = guest.offer(STATS, [Buffer(guest.buffer_gpa(STATS), length)])
            if previous is not None:
                assert [used.head for used in guest.wait_used(STATS)] == [previous]
            previous = head


def test_buffers_to_be_written_are_returned_unwritten(device: DeviceProcess) -> None:
    with start_qemu(device) as guest:
        first, _ = guest.free_range()
        guest.ram.fill(first, 1)
        for queue in (INFLATE, DEFLATE):
            buffer = Buffer(first * PAGE_BYTES, PAGE_BYTES, is_writable=True)
            assert guest.transact(queue, [buffer]).length == 0
        assert guest.ram.changed_pages(first, 1) == set()


def test_an_indirect_chain_that_was_not_negotiated_breaks_the_ring(device: DeviceProcess) -> None:
    with start_qemu(device, wanted=VERSION_1) as guest:
        whole = guest.write_pfns(INFLATE, [guest.free_range()[0]])
        guest.offer(INFLATE, [whole], indirect_at=whole.gpa + PAGE_BYTES)
        assert guest.front_end.wait_err(INFLATE)

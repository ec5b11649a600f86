"""Channels over real sockets and files, and whole streams through them."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Final

import numpy as np
import pytest
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S

from ballonet.errors import (
    ListenError,
    MigrationError,
    SettingsError,
    StreamError,
    SystemCallError,
)
from ballonet.memory.regions import Region
from ballonet.memory.runs import PageRuns
from ballonet.migration.channels import FileChannel, SocketChannel
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.incoming import Incoming
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.receiver import receive_record, receive_until_runnable
from ballonet.migration.records import (
    BACKWARD,
    FORWARD,
    RUNS_MAX,
    GuestRegion,
    Holes,
    Postcopy,
    Ready,
    Record,
    StateName,
)
from ballonet.migration.rendezvous import connect, listen
from ballonet.migration.sender import StreamSender

PAGE: Final = 4096
PAGES: Final = 3000
#: Two regions that touch, in one file.
REGIONS: Final = (GuestRegion(0, 1000 * PAGE, PAGE), GuestRegion(1000 * PAGE, 2000 * PAGE, PAGE))
KERNEL: Final = bytes(range(256)) * 6000  # more than one record


def make_memory() -> tuple[int, MemoryFile]:
    """A memory of holes."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGES * PAGE)
    regions = [Region(one.gpa, one.size, 0, one.gpa) for one in REGIONS]
    return fd, MemoryFile([(region, fd) for region in regions])


@pytest.fixture
def source() -> Iterator[tuple[int, MemoryFile]]:
    """Pages of noise, of zeros, of nearly zeros, and holes."""
    fd, memory = make_memory()
    chosen = np.random.default_rng(5)
    kinds = chosen.integers(0, 4, PAGES)
    for pfn in range(PAGES):
        if pfn < 600 or kinds[pfn] == 1:
            os.pwrite(fd, chosen.bytes(PAGE), pfn * PAGE)
        elif kinds[pfn] == 2:
            os.pwrite(fd, bytes(PAGE), pfn * PAGE)
        elif kinds[pfn] == 3:
            os.pwrite(fd, b"!", pfn * PAGE + int(chosen.integers(PAGE)))
    yield fd, memory
    os.close(fd)


@pytest.fixture
def destination() -> Iterator[tuple[int, MemoryFile]]:
    fd, memory = make_memory()
    yield fd, memory
    os.close(fd)


def all_pages() -> PageRuns:
    return PageRuns(np.array([0]), np.array([PAGES]))


def send_all(sender: StreamSender, runs: PageRuns) -> None:
    sender.begin(has_checksums=True, may_postcopy=False)
    sender.begin_pass()
    sender.send_pages(runs)
    sender.send_state(StateName.KERNEL, KERNEL)
    sender.end()


def in_thread(task: Callable[[], None]) -> Thread:
    thread = Thread(target=task)
    thread.start()
    return thread


def pair(timeout_s: int = int(PATIENCE_S)) -> tuple[SocketChannel, SocketChannel]:
    left, right = socket.socketpair()
    return SocketChannel(left, "left", timeout_s), SocketChannel(right, "right", timeout_s)


def uris(tmp_path: Path) -> dict[str, str]:
    return {"unix": f"unix:{tmp_path}/sock", "tcp": "tcp:127.0.0.1:0", "ipv6": "tcp:[::1]:0"}


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", ["unix", "tcp", "ipv6"])
def test_a_whole_stream_arrives_page_for_page_with_holes_where_zeros_were(
    kind: str,
    tmp_path: Path,
    source: tuple[int, MemoryFile],
    destination: tuple[int, MemoryFile],
) -> None:
    if kind == "ipv6" and not has_ipv6():
        pytest.skip("no IPv6 here")
    incoming = Incoming(destination[1], REGIONS, frozenset({StateName.KERNEL}))
    sent: list[int] = []
    with listen(uris(tmp_path)[kind]) as listener:

        def send() -> None:
            with connect(listener.uri) as channel:
                send_all(StreamSender(channel, REGIONS, source[1].read, sent.append), all_pages())

        thread = in_thread(send)
        with listener.accept() as channel:
            receive_until_runnable(channel, RecordReader(FORWARD), incoming)
        thread.join()
    assert incoming.is_complete
    assert incoming.states[StateName.KERNEL] == KERNEL
    whole = os.pread(source[0], PAGES * PAGE, 0)
    assert os.pread(destination[0], PAGES * PAGE, 0) == whole
    used = sum(bool(whole[at : at + PAGE].strip(b"\0")) for at in range(0, len(whole), PAGE))
    assert os.fstat(destination[0]).st_blocks * 512 == used * PAGE
    assert incoming.totals.pages == used
    assert incoming.totals.hole_pages == PAGES - used
    assert sum(sent) < used * PAGE * 1.05 + len(KERNEL)


def test_scattered_pages_of_a_later_pass_replace_those_of_the_first(
    source: tuple[int, MemoryFile], destination: tuple[int, MemoryFile]
) -> None:
    incoming = Incoming(destination[1], REGIONS, frozenset({StateName.KERNEL}))
    left, right = pair()
    with left, right:
        thread = in_thread(lambda: receive_until_runnable(right, RecordReader(FORWARD), incoming))
        sender = StreamSender(left, REGIONS, source[1].read, lambda _: None)
        sender.begin(has_checksums=False, may_postcopy=False)
        sender.begin_pass()
        sender.send_pages(all_pages())
        for pfn in range(1, PAGES, 2):  # ones become zeros, and zeros ones
            was = os.pread(source[0], 1, pfn * PAGE)
            os.pwrite(source[0], bytes(PAGE) if was != b"\0" else b"z" * PAGE, pfn * PAGE)
        dirty = np.arange(1, PAGES, 2)
        sender.begin_pass()
        sender.send_pages(PageRuns(dirty, np.ones(dirty.size, np.int64)))
        sender.send_state(StateName.KERNEL, KERNEL)
        sender.end()
        thread.join()
    assert incoming.is_complete
    size = PAGES * PAGE
    assert os.pread(destination[0], size, 0) == os.pread(source[0], size, 0)


def test_post_copy_brings_what_was_missing_and_a_wanted_page_first(
    source: tuple[int, MemoryFile], destination: tuple[int, MemoryFile]
) -> None:
    incoming = Incoming(destination[1], REGIONS, frozenset({StateName.KERNEL}))
    left, right = pair()
    with left, right:
        reader = RecordReader(FORWARD)

        def receive() -> None:
            receive_until_runnable(right, reader, incoming)
            while not incoming.is_complete:
                incoming.feed(receive_record(right, reader))

        thread = in_thread(receive)
        sender = StreamSender(left, REGIONS, source[1].read, lambda _: None)
        sender.begin(has_checksums=True, may_postcopy=True)
        sender.begin_pass()
        sender.send_pages(PageRuns(np.array([0]), np.array([1500])))
        sender.send_state(StateName.KERNEL, KERNEL)
        sender.send_postcopy(PageRuns(np.array([1500]), np.array([1500])))
        sender.send_pages(PageRuns(np.array([2000]), np.array([1])))
        sender.send_pages(PageRuns(np.array([1500, 2001]), np.array([500, 999])))
        sender.end()
        thread.join()
    assert incoming.is_complete
    size = PAGES * PAGE
    assert os.pread(destination[0], size, 0) == os.pread(source[0], size, 0)


def test_a_connection_that_breaks_is_told_in_one_line_at_both_ends(
    source: tuple[int, MemoryFile], destination: tuple[int, MemoryFile]
) -> None:
    incoming = Incoming(destination[1], REGIONS, frozenset({StateName.KERNEL}))
    left, right = pair()
    with left, right:
        sender = StreamSender(left, REGIONS, source[1].read, lambda _: None)
        sender.begin(has_checksums=True, may_postcopy=False)
        left.send([b"half a header"])
        left.close()
        with pytest.raises(StreamError, match="ends here"):
            receive_until_runnable(right, RecordReader(FORWARD), incoming)
    assert not incoming.may_run
    left, right = pair()
    with left, right:
        right.close()
        with pytest.raises(MigrationError, match=r"sending to left: .*[Pp]ipe") as caught:
            send_all(StreamSender(left, REGIONS, source[1].read, lambda _: None), all_pages())
    assert "\n" not in str(caught.value)


def test_what_is_told_of_each_record_may_end_the_sending_there(
    source: tuple[int, MemoryFile],
) -> None:
    class StoppedError(Exception):
        pass

    def stop(_: int) -> None:
        raise StoppedError

    left, right = pair()
    with left, right, pytest.raises(StoppedError):
        StreamSender(left, REGIONS, source[1].read, stop).begin(
            has_checksums=True, may_postcopy=False
        )


def test_a_peer_that_makes_no_progress_is_given_up() -> None:
    left, right = pair(timeout_s=1)
    with left, right:
        with pytest.raises(MigrationError, match="receiving from right: no progress for 1 s"):
            right.receive(memoryview(bytearray(10)))
        with pytest.raises(MigrationError, match="sending to left: no progress for 1 s"):
            left.send([bytes(64 << 20)])


def test_an_abort_from_another_thread_ends_a_wait() -> None:
    left, right = pair()
    with left, right:
        got: list[int] = []
        thread = in_thread(lambda: got.append(left.receive(memoryview(bytearray(10)))))
        left.abort()
        thread.join()
        assert got == [0]
        with pytest.raises(MigrationError):
            left.send([b"x"])
        left.abort()


def test_answers_come_back_over_the_same_channel() -> None:
    left, right = pair()
    with left, right:
        right.send(RecordWriter().pack(Ready()))
        assert receive_record(left, RecordReader(BACKWARD)) == Ready()


def test_many_buffers_arrive_in_order_even_if_the_kernel_takes_them_in_parts() -> None:
    buffers = [bytes([number % 251]) * (number * 7 % 5000) for number in range(3000)]
    whole = b"".join(buffers)
    left, right = pair()
    with left, right:
        thread = in_thread(lambda: left.send(buffers))
        received = bytearray(len(whole))
        assert right.receive(memoryview(received)) == len(whole)
        thread.join()
    assert received == whole


def test_a_unix_socket_is_only_for_its_owner_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listen(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ListenError, match="another program"), listen(f"unix:{path}"):
            pass
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with listen(f"unix:{path}") as listener, connect(listener.uri) as channel:
        assert channel.is_two_way


def test_an_inherited_socket_serves_connected_and_listening() -> None:
    left, right = socket.socketpair()
    with (
        connect(f"fd:{left.detach()}") as source,
        listen(f"fd:{right.detach()}") as listener,
        listener.accept() as destination,
    ):
        source.send([b"hello"])
        buffer = memoryview(bytearray(5))
        assert destination.receive(buffer) == 5
        assert bytes(buffer) == b"hello"
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with (
        listen(f"fd:{server.detach()}") as listener,
        connect(f"tcp:127.0.0.1:{port}") as source,
        listener.accept() as destination,
    ):
        destination.send([b"!"])
        assert source.receive(memoryview(bytearray(1))) == 1


def test_a_descriptor_that_is_no_connected_stream_socket_is_refused_and_left_alone(
    tmp_path: Path,
) -> None:
    with (
        (tmp_path / "file").open("wb") as file,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        for fd in (file.fileno(), datagrams.fileno(), server.fileno()):
            with pytest.raises(SettingsError, match="socket"):
                connect(f"fd:{fd}")
            os.fstat(fd)
        for fd in (file.fileno(), datagrams.fileno()):
            with pytest.raises(SettingsError, match="socket"), listen(f"fd:{fd}"):
                pass
            os.fstat(fd)
    with pytest.raises(SettingsError, match="socket"):
        connect("fd:999999")


@pytest.mark.parametrize(
    "uri", ["unix:{}/nobody", "unix:{}/" + "x" * 200, "tcp:127.0.0.1:1", "tcp:{}:1", "file:{}"]
)
def test_where_there_is_no_way_is_told_in_one_line(uri: str, tmp_path: Path) -> None:
    with pytest.raises(SystemCallError) as caught:
        connect(uri.format(tmp_path))
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith(": ")


def test_a_port_that_is_taken_or_a_host_that_is_not_ours_cannot_be_listened_at() -> None:
    with listen("tcp:127.0.0.1:0") as listener:
        for uri in (listener.uri, "tcp:192.0.2.1:0", "tcp:" + "a" * 70 + ":1"):
            with pytest.raises(ListenError), listen(uri):
                pass


def test_a_file_gets_the_whole_stream_and_nobody_else_may_read_it(
    tmp_path: Path, source: tuple[int, MemoryFile], destination: tuple[int, MemoryFile]
) -> None:
    path = tmp_path / "stream"
    previous = os.umask(0)
    try:
        with connect(f"file:{path}") as channel:
            assert not channel.is_two_way
            send_all(StreamSender(channel, REGIONS, source[1].read, lambda _: None), all_pages())
            with pytest.raises(MigrationError, match="only written"):
                channel.receive(memoryview(bytearray(1)))
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    incoming = Incoming(destination[1], REGIONS, frozenset({StateName.KERNEL}))
    reader = RecordReader(FORWARD)
    with path.open("rb") as file:
        while not incoming.is_complete:
            assert file.readinto(reader.buffer) == len(reader.buffer)
            record = reader.filled()
            if record is not None:
                incoming.feed(record)
        assert file.read() == b""
    size = PAGES * PAGE
    assert os.pread(destination[0], size, 0) == os.pread(source[0], size, 0)


def records_in(path: Path) -> list[Record]:
    """All of a stream in a file; what pages and states hold is lost."""
    reader, records = RecordReader(FORWARD), []
    with path.open("rb") as file:
        while got := file.readinto(reader.buffer):
            assert got == len(reader.buffer)
            record = reader.filled()
            if record is not None:
                records.append(record)
    return records


def numbers(runs: PageRuns) -> list[int]:
    pairs = zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True)
    return [pfn for first, pages in pairs for pfn in range(first, first + pages)]


@pytest.mark.parametrize("count", [0, 1, RUNS_MAX, RUNS_MAX + 1, 3 * RUNS_MAX])
def test_more_runs_than_one_record_holds_go_in_many_and_only_the_last_is_called_so(
    count: int, tmp_path: Path
) -> None:
    regions = (GuestRegion(0, 8 * RUNS_MAX * PAGE, PAGE),)
    runs = PageRuns(np.arange(count) * 2, np.ones(count, np.int64))
    with FileChannel(str(tmp_path / "stream")) as channel:
        sender = StreamSender(channel, regions, lambda _runs, _buffer: None, lambda _: None)
        sender.begin(has_checksums=True, may_postcopy=True)
        sender.begin_pass()
        sender.send_holes(runs)
        sender.send_postcopy(runs)
    records = records_in(tmp_path / "stream")
    holes = [pfn for one in records if isinstance(one, Holes) for pfn in numbers(one.runs)]
    parts = [one for one in records if isinstance(one, Postcopy)]
    missing = [pfn for one in parts for pfn in numbers(one.runs)]
    assert holes == missing == numbers(runs)
    assert [one.is_last for one in parts] == [False] * (len(parts) - 1) + [True]


def test_a_large_memory_of_holes_is_sent_in_a_few_long_runs(tmp_path: Path) -> None:
    pages = (1 << 16) + 300
    regions = (GuestRegion(0, pages * PAGE, PAGE),)
    fd = os.memfd_create("guest")
    try:
        os.ftruncate(fd, pages * PAGE)
        memory = MemoryFile([(Region(0, pages * PAGE, 0, 0), fd)])
        with FileChannel(str(tmp_path / "stream")) as channel:
            sender = StreamSender(channel, regions, memory.read, lambda _: None)
            sender.begin(has_checksums=True, may_postcopy=False)
            sender.begin_pass()
            sender.send_pages(PageRuns(np.array([0]), np.array([pages])))
    finally:
        os.close(fd)
    _, _, *holes = records_in(tmp_path / "stream")
    runs = [one.runs for one in holes if isinstance(one, Holes)]
    assert len(runs) == len(holes) == 2
    assert [pfn for one in runs for pfn in numbers(one)] == list(range(pages))


def test_a_file_that_stood_there_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"old" * 100)
    with FileChannel(str(path)) as channel:
        channel.send([b"new"])
        channel.finish()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_file_is_not_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(SystemCallError, match="writing"):
        FileChannel(str(path) if kind == "fifo" else "/dev/null")


def test_a_file_cannot_be_listened_at(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="only written"), listen(f"file:{tmp_path}/stream"):
        pass


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, source: tuple[int, MemoryFile]) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        FileChannel(str(disk.path / "stream")) as channel,
        pytest.raises(MigrationError, match="No space left"),
    ):
        send_all(StreamSender(channel, REGIONS, source[1].read, lambda _: None), all_pages())

"""Back-ends that answer wrong, without end, or not at all: our front-end says so in time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
from tests.support.wait import holds
from tests.support.wire import HEADER, REPLY, U64, VERSION, Req

from ballonet.errors import GuestError
from ballonet.vhost_user import back_end_link, back_end_socket
from ballonet.vhost_user.frontend import FrontEnd

Answer = Callable[[int, bytes], bytes | None]

PROTOCOL_FEATURES = 1 << 30
CONFIG = 1 << 9


def reply(code: int, payload: bytes, size: int | None = None) -> bytes:
    header = HEADER.pack(code, VERSION | REPLY, len(payload) if size is None else size)
    return header + payload


def answer_well(code: int, payload: bytes) -> bytes | None:
    """What a device without acknowledgements says; None: nothing."""
    match code:
        case Req.GET_FEATURES:
            return reply(code, U64.pack(PROTOCOL_FEATURES | 1 << 32))
        case Req.GET_PROTOCOL_FEATURES:
            return reply(code, U64.pack(CONFIG))
        case Req.GET_CONFIG:
            return reply(code, payload)
    return None


class BackEnd:
    """Answers each request as it is told, on a thread; b"" hangs up."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self.connections = 0
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                with sock, suppress(OSError):
                    self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        while header := sock.recv(HEADER.size, socket.MSG_WAITALL):
            code, _, size = HEADER.unpack(header)
            payload = sock.recv(size, socket.MSG_WAITALL) if size else b""
            answered = self._answer(code, payload)
            if answered == b"":
                return
            if answered is not None:
                sock.sendall(answered)


class NoWatcher:
    """Nothing becomes readable but what is read at once."""

    def register(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        pass

    def unregister(self, fd: int) -> None:
        pass


@contextmanager
def front_end_of(path: Path) -> Iterator[FrontEnd]:
    made = FrontEnd(NoWatcher(), path, [], called=lambda _: None, config_changed=lambda: None)
    with closing(made):
        yield made


BAD_ANSWERS: dict[str, Callable[[int], bytes]] = {
    "of 4 GiB": lambda code: reply(code, bytes(1 << 20), 0xFFFF_FFFF),
    "of 4 bytes": lambda code: reply(code, bytes(4)),
    "of nothing": lambda code: reply(code, b""),
    "of 16 KiB": lambda code: reply(code, bytes(16384)),
    "to another request": lambda code: reply(code + 1, bytes(8)),
    "that is noise": lambda _: bytes(range(200)),
}
each_bad_answer = pytest.mark.parametrize("bad", list(BAD_ANSWERS.values()), ids=list(BAD_ANSWERS))


@each_bad_answer
@pytest.mark.parametrize("request_code", [Req.GET_FEATURES, Req.GET_PROTOCOL_FEATURES])
def test_a_device_that_answers_wrong_at_the_start_is_given_up(
    tmp_path: Path, bad: Callable[[int], bytes], request_code: Req
) -> None:
    def answer(code: int, payload: bytes) -> bytes | None:
        return bad(code) if code == request_code else answer_well(code, payload)

    with BackEnd(tmp_path / "s", answer) as device, front_end_of(device.path) as front_end:
        with pytest.raises(GuestError, match="the device answers"):
            front_end.connect()
        assert not front_end.is_connected


@each_bad_answer
def test_a_wrong_configuration_is_an_error_and_no_second_try(
    tmp_path: Path, bad: Callable[[int], bytes]
) -> None:
    def answer(code: int, payload: bytes) -> bytes | None:
        return bad(code) if code == Req.GET_CONFIG else answer_well(code, payload)

    with BackEnd(tmp_path / "s", answer) as device, front_end_of(device.path) as front_end:
        front_end.connect()
        with pytest.raises(GuestError, match="the device answers"):
            front_end.read_config(0, 4)
        assert device.connections == 1


def test_a_configuration_whose_size_is_not_what_it_says_is_an_error(tmp_path: Path) -> None:
    def answer(code: int, payload: bytes) -> bytes | None:
        if code == Req.GET_CONFIG:
            return reply(code, b"\xff" * len(payload))
        return answer_well(code, payload)

    with BackEnd(tmp_path / "s", answer) as device, front_end_of(device.path) as front_end:
        front_end.connect()
        with pytest.raises(GuestError, match="GET_CONFIG"):
            front_end.read_config(0, 4)


def test_an_answer_that_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_end_socket, "ANSWER_S", 0.2)
    with (
        BackEnd(tmp_path / "s", lambda *_: None) as device,
        front_end_of(device.path) as front_end,
        pytest.raises(GuestError, match="hung up"),
    ):
        front_end.connect()


def test_an_answer_that_comes_byte_by_byte_for_ever_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(back_end_socket, "ANSWER_S", 0.3)
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def trickle() -> None:
        for byte in reply(Req.GET_FEATURES, bytes(8)) * 100:
            with suppress(OSError):
                theirs.send(bytes([byte]))
            if not holds(lambda: not stop.is_set(), 0.1):  # again before a read's time is over
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with (
            theirs,
            closing(back_end_socket.BackEndSocket(ours)) as sock,
            pytest.raises(TimeoutError),
        ):
            sock.ask(Req.GET_FEATURES)  # type: ignore[arg-type]
    finally:
        stop.set()
        thread.join()


def test_a_device_that_is_lost_at_each_request_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_end_link, "_GIVE_UP_S", 0.5)

    def answer(code: int, payload: bytes) -> bytes | None:
        return b"" if code == Req.GET_CONFIG else answer_well(code, payload)

    with BackEnd(tmp_path / "s", answer) as device, front_end_of(device.path) as front_end:
        front_end.connect()
        with pytest.raises(GuestError, match="again and again"):
            front_end.read_config(0, 4)
        assert 1 < device.connections < 50


def test_a_good_answer_is_taken(tmp_path: Path) -> None:
    with BackEnd(tmp_path / "s", answer_well) as device, front_end_of(device.path) as front_end:
        front_end.connect()
        assert front_end.read_config(0, 4) == bytes(4)
        front_end.write_config(4, b"\1\0\0\0")

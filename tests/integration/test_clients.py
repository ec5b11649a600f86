"""The verbs that talk to a monitor, at monitors that misbehave, and at their own ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.odd_monitor import GREETING, odd_monitor
from tests.support.programs import started, wait_for_listener
from tests.support.wait import wait_until

BALLONET = str(Path(sys.executable).with_name("ballonet"))
SECONDS = 60
VERBS = (("info",), ("set", "300M"), ("set", "300M", "--wait"), ("stats",), ("monitor",))
MIB = 1 << 20


def ballonet(*arguments: str, text: str = "info balloon\n") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a verb ended with."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("ballonet: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    "greeting",
    [
        b"hello\r\n",
        b"[1, 2]\r\n",
        b'{"QMP": 3}\r\n',
        b'{"QMP": {"version": {}, "capabilities": 7}}\r\n',
        b"[" * 100_000 + b"\r\n",
        b"9" * 100_000 + b"\r\n",
        b"\xff\xfe\r\n",
        b"x" * (11 << 20) + b"\r\n",
    ],
    ids=["word", "list", "number", "capabilities", "deep", "digits", "bytes", "long"],
)
def test_what_is_no_monitor_is_one_line(tmp_path: Path, greeting: bytes) -> None:
    with odd_monitor(tmp_path / "qmp", lambda _: b"", greeting):
        line = one_line(ballonet("info", str(tmp_path / "qmp")))
    assert "what it says is not QMP" in line


def test_a_greeting_without_an_end_is_given_up(tmp_path: Path) -> None:
    with odd_monitor(tmp_path / "qmp", lambda _: b"", b"x" * 4096, endless=True):
        one_line(ballonet("info", str(tmp_path / "qmp")))


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage",
        b'{"return": 7}',
        b'{"return": null}',
        b'{"return": []}',
        b'{"return": {"actual": "x", "stats": 1, "running": 1}}',
        b'{"return": {"actual": 1e300, "running": true}}',
        b'{"return": {"actual": 123456789012345678901234567890, "running": true}}',
        b'{"error": {"class": "GenericError", "desc": "no \\u001b[31m"}}',
        b'{"error": 3}',
        b"{}",
    ],
)
def test_replies_that_make_no_sense_are_one_line(tmp_path: Path, reply: bytes) -> None:
    with odd_monitor(tmp_path / "qmp", lambda _: reply):
        line = one_line(ballonet("info", str(tmp_path / "qmp")))
    assert "\x1b" not in line


@pytest.mark.parametrize("verb", VERBS[1:4])
def test_no_verb_believes_everything(tmp_path: Path, verb: tuple[str, ...]) -> None:
    with odd_monitor(tmp_path / "qmp", lambda _: b'{"return": {"actual": "x", "running": 1}}'):
        one_line(ballonet(verb[0], str(tmp_path / "qmp"), *verb[1:]))


def sensible(command: str) -> bytes:
    """A monitor whose texts are meant for the terminal and for the library that prints tables."""
    nasty = "[red][/foo]\x1b[31m"
    request = {"number": 1}
    answers: dict[str, object] = {
        "query-commands": [{"name": "x-ballonet-info"}],
        "query-status": {"running": True},
        "x-ballonet-info": {
            "ram": 512 * MIB,
            "connected": True,
            "running": False,
            "request": request,
            "actual-pages": 0,
            "why": nasty,
            "problem": nasty,
            "features": [nasty],
        },
        "query-balloon": {"actual": 512 * MIB},
        "query-memory-size-summary": {"base-memory": 512 * MIB},
        "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
        "qom-get": 0,
    }
    return json.dumps({"return": answers.get(command, {})}).encode()


OURS = GREETING.replace(b'"package": ""', b'"package": "ballonet"')


def test_texts_of_a_monitor_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    def answer(command: str) -> bytes:
        if command == "qom-get":
            return b'{"error": {"class": "GenericError", "desc": "no"}}'
        return sensible(command)

    with odd_monitor(tmp_path / "qmp", answer, OURS):
        done = ballonet("info", str(tmp_path / "qmp"))
        waited = ballonet("set", str(tmp_path / "qmp"), "500M", "--wait")
    assert done.returncode == 0, done.stderr
    assert "[red][/foo]�[31m" in done.stdout
    assert "no_driver: asked for 500.0 MiB" in waited.stdout
    assert "\x1b[31m" not in done.stdout + waited.stdout


def test_before_a_vmm_connects_that_is_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    command = [BALLONET, "device", "--socket-path", str(tmp_path / "vhost"), "--qmp"]
    with started([*command, f"unix:{path},server=on,wait=off"]) as device:
        wait_for_listener(path)
        shown, facts = ballonet("info", str(path)), ballonet("info", str(path), "--json")
        refused = ballonet("set", str(path), "300M")
        device.terminate()
        assert device.wait(SECONDS) == 0
    assert shown.returncode == facts.returncode == 0
    assert "no VMM is connected yet" in shown.stdout
    assert json.loads(facts.stdout)["memory_bytes"] is None
    assert json.loads(facts.stdout)["device"]["connected"] is False
    assert one_line(refused) == "ballonet: no VMM is connected to the device yet\n"


@pytest.mark.parametrize("verb", [("info",), ("set", "300M", "--wait"), ("monitor",)])
def test_a_monitor_that_another_client_holds_is_told_with_the_clients_name(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    path = str(tmp_path / "qmp")
    holding = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); sys.stdin.read()"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with started([sys.executable, "-c", holding, path], stdin=subprocess.PIPE) as holder:
            served, _ = server.accept()
            with served:
                begun_s = time.monotonic()
                line = one_line(ballonet(verb[0], path, *verb[1:]))
            assert time.monotonic() - begun_s >= 3
            holder.communicate()
    assert "it serves one client at a time" in line
    assert f"process {holder.pid} is connected to it" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["greeting", "reply", "input"])
def test_a_client_that_waits_ends_on_every_signal(
    tmp_path: Path, number: signal.Signals, where: str
) -> None:
    path = tmp_path / "qmp"
    verb = ["monitor"] if where == "input" else ["info"]
    greeting = b"" if where == "greeting" else GREETING
    silent: Callable[[str], bytes] = lambda _: b""  # noqa: E731
    with (
        odd_monitor(path, silent, greeting) as asked,
        subprocess.Popen([BALLONET, *verb, str(path)], stdin=subprocess.PIPE) as process,
    ):
        if where == "greeting":
            wait_until(lambda: _has_socket(process.pid), SECONDS, "it does not connect")
        else:
            wait_until(lambda: len(asked) >= 1 + (where == "reply"), SECONDS, "it does not ask")
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number


def _has_socket(pid: int) -> bool:
    """It is connected: before, a signal would meet a program that only starts."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if _is_connected(str(fd.readlink())):
                return True
        except FileNotFoundError:
            continue
    return False


def _is_connected(link: str) -> bool:
    inode = link.partition("[")[2].rstrip("]")
    rows = (row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(row[6] == inode and row[5] == "03" for row in rows)


def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [BALLONET, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert one_line(done) == "ballonet: standard output: No space left on device\n"


def test_whoever_closes_the_pipe_is_not_complained_to() -> None:
    command = f"{BALLONET} --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.stderr == ""


def test_a_monitor_without_input_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {BALLONET} monitor {tmp_path}/qmp <&-"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "standard input is closed" in one_line(done)


def test_commands_may_come_from_a_file(tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.write_text('{"execute": "query-balloon"}\nnot json {\n{"execute": 3}\n{"execute"}')
    with odd_monitor(tmp_path / "qmp", sensible), commands.open() as file:
        done = subprocess.run(
            [BALLONET, "monitor", str(tmp_path / "qmp")],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert f'"actual": {512 * MIB}' in done.stdout
    assert done.stdout.count("not a QMP command") == 2


def test_nothing_of_ours_is_sent_to_a_monitor_that_is_not_ours(tmp_path: Path) -> None:
    with odd_monitor(tmp_path / "qmp", sensible) as asked:
        for verb in VERBS[:3]:
            ballonet(verb[0], str(tmp_path / "qmp"), *verb[1:], "--json")
    assert asked
    assert not [command for command in asked if command.startswith("x-")]
    assert "query-commands" not in asked


def test_what_our_monitor_does_not_list_is_not_sent(tmp_path: Path) -> None:
    def without_info(command: str) -> bytes:
        return b'{"return": []}' if command == "query-commands" else sensible(command)

    with odd_monitor(tmp_path / "qmp", without_info, OURS) as asked:
        ballonet("info", str(tmp_path / "qmp"))
    assert "query-commands" in asked
    assert "x-ballonet-info" not in asked

"""The back-end program as a VMM or a person starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import files
from pathlib import Path

import pytest
from tests.support.front_end import FrontEnd
from tests.support.programs import started
from tests.support.wait import PATIENCE_S, wait_until

PROGRAMS = Path(sys.executable).parent


def ballonet(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    command = [str(PROGRAMS / "ballonet"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def serving(*arguments: str, fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run the program as long as the block."""
    command = [str(PROGRAMS / "vhost-user-balloon"), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=fds) as process:
        try:
            yield process
        finally:
            process.kill()


def connected(path: Path) -> FrontEnd | None:
    """A front-end at this path, if somebody listens there by now."""
    try:
        return FrontEnd.connect(path)
    except OSError:
        return None


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


@pytest.mark.parametrize("others", [(), ("--fd", "nine", "--junk"), ("--socket-path", "/a/b")])
def test_capabilities_are_printed_whatever_else_is_asked(others: tuple[str, ...]) -> None:
    done = ballonet("device", *others, "--print-capabilities")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"type": "balloon"}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--socket-path", "/tmp/x", "--fd", "3"),
        ("--fd", "77"),
        ("--fd", "0"),
        ("--socket-path", "/tmp/x", "--target", "12 potatoes"),
        ("--socket-path", "/tmp/x", "--target", "-5M"),
        ("--socket-path", "/tmp/x", "--target", "90000T"),
        ("--bogus",),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = ballonet("device", *arguments)
    assert done.returncode == 2
    assert one_line(done.stderr), done.stderr


def test_a_path_that_cannot_be_listened_at_is_one_line_and_nothing_there_is_touched(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "no" / "folder", tmp_path / ("x" * 120)):
        done = ballonet("device", "--socket-path", str(path))
        assert done.returncode == 1
        assert one_line(done.stderr), done.stderr
        assert str(path) in done.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_a_path_in_use_is_refused_and_a_stale_one_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with serving("--socket-path", str(path)) as process:
        with wait_until(lambda: connected(path), 10, "nobody listens") as front_end:
            assert path.stat().st_mode & 0o777 == 0o600
            assert front_end.get_features()
            second = ballonet("device", "--socket-path", str(path))
            assert second.returncode == 1
            assert "another program listens" in second.stderr
            assert front_end.get_features()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert not path.exists()


def test_a_connected_socket_is_served_until_the_front_end_leaves() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = ("--fd", str(theirs.fileno()))
        with serving(*arguments, fds=(theirs.fileno(),)) as process:
            theirs.close()
            with FrontEnd(ours) as front_end:
                assert front_end.get_features()
            assert process.wait(PATIENCE_S) == 0


def test_a_listening_socket_is_inherited_and_its_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with serving("--fd", str(listener.fileno()), fds=(listener.fileno(),)) as process:
            for _ in range(2):
                with FrontEnd.connect(path) as front_end:
                    assert front_end.get_features()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
    assert path.exists()


def test_the_readmes_command_makes_a_descriptor_of_the_program_that_is_installed(
    tmp_path: Path,
) -> None:
    lines = Path("README.md").read_text().splitlines()
    command = next(line for line in lines if line.startswith("    sed "))
    target = str(tmp_path / "descriptor")
    command = command.replace("/etc/qemu/vhost-user/50-ballonet-balloon.json", target)
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    subprocess.run(["sh", "-ec", command], check=True, env={"PATH": path})
    descriptor = json.loads((tmp_path / "descriptor").read_text())
    assert descriptor["type"] == "balloon"
    assert Path(descriptor["binary"]) == PROGRAMS / "vhost-user-balloon"
    assert Path(descriptor["binary"]).exists()


def test_no_descriptor_is_installed_that_names_a_program_elsewhere() -> None:
    installed = files("ballonet") or []
    descriptors = [one.locate() for one in installed if "vhost-user" in one.parent.parts]
    for descriptor in descriptors:
        binary = json.loads(Path(str(descriptor)).read_text())["binary"]
        assert Path(binary).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_says_where_it_listens_and_each_signal_ends_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    paths = [tmp_path / "socket", tmp_path / "qmp"]
    command = [str(PROGRAMS / "ballonet"), "device", "--socket-path", str(paths[0])]
    command += ["--qmp", f"unix:{paths[1]},server=on,wait=off"]
    with started(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for path in paths:
            assert process.stderr.readline() == f"ballonet: listening at {path}\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == ""
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize(("option", "filters"), [("--sandbox", "2"), ("--no-sandbox", "0")])
def test_it_has_no_privileges_unless_told_otherwise(
    tmp_path: Path, option: str, filters: str
) -> None:
    path = tmp_path / "socket"
    with serving("--socket-path", str(path), option) as process:
        with wait_until(lambda: connected(path), 10, "nobody listens") as front_end:
            assert front_end.get_features()  # it serves, so it has given up what it could
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            lines = (thread / "status").read_text().splitlines()
            found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            assert found["Seccomp"] == filters
            assert option == "--no-sandbox" or int(found["CapEff"], 16) == 0

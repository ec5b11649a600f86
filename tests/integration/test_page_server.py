"""The page's server: what it answers, whom it refuses, and that nobody holds up the agent."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest
from tests.integration.host_under_test import HostProcess, running
from tests.support.agent_process import BALLONET, AgentProcess, agent, configuration
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

MIB: Final = 1 << 20
TOKEN: Final = "0123456789abcdef-of-a-test"  # noqa: S105 - of nothing else
VM: Final = "ballonet:serv-a"
RIGHT: Final = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """With one guest."""
    with (
        running(tmp_path_factory.mktemp("host") / "host") as host,
        EmbeddedGuest(EmbeddedGuestSettings(64 * MIB, host.add("serv-a"))),
    ):
        yield host


@contextmanager
def serving(folder: Path, text: str = "") -> Iterator[AgentProcess]:
    """An agent with a page; with a token, if no other text is given."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    page = text or f'[web]\nlisten = "127.0.0.1:0"\ntoken_file = "{token}"\n'
    with agent(folder, configuration(["serv-*"]) + page) as watcher:
        watcher.wait_for_rounds(1)
        yield watcher


@pytest.fixture(scope="module")
def watcher(host: HostProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One for those that leave it as it was."""
    assert host.rows()
    with serving(tmp_path_factory.mktemp("agent")) as watcher:
        yield watcher


def port_of(watcher: AgentProcess) -> int:
    line = next(one for one in reversed(watcher.log()) if "the page is at" in one)
    return int(line.rstrip("/").rpartition(":")[2])


def asked(
    watcher: AgentProcess,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, Any]:
    """Status, and the object of an answer."""
    connection = HTTPConnection("127.0.0.1", port_of(watcher), timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.getheader("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(data) if is_json else data
    finally:
        connection.close()


def test_what_the_agent_knows_is_told(watcher: AgentProcess) -> None:
    status, state = asked(watcher, "/api/state")
    assert status == 200
    (vm,) = state["vms"]
    assert (vm["vm"], vm["memory_bytes"]) == (VM, 64 * MIB)
    assert state["host"]["total_bytes"] > 0
    status, details = asked(watcher, f"/api/vms/{VM}")
    assert status == 200
    assert {one["name"] for one in details["statistics"]} > {"memfree", "memtot"}
    status, past = asked(watcher, f"/api/vms/{VM}/history?seconds=60")
    assert (status, past["keys"][0], list(past["vms"])) == (200, "at", [VM])
    assert asked(watcher, "/api/actions") == (200, {"records": []})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/vms/ballonet:nobody", 404),
        ("/api/history?seconds=0", 422),
        ("/api/history?seconds=-1", 422),
        ("/api/history?seconds=9999999999999999999999", 422),
        ("/api/history?seconds=%00", 422),
        ("/../../../../etc/passwd", 404),
        ("/static/index.html", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/page.js/../token", 404),
        ("//etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_refused(watcher: AgentProcess, path: str, status: int) -> None:
    got, told = asked(watcher, path)
    assert (got, list(told)) == (status, ["error"])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "POST"])
def test_there_is_no_other_method_than_those_described(watcher: AgentProcess, method: str) -> None:
    assert asked(watcher, "/api/state", method)[0] == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:80"}, 421),
        ({"Host": ""}, 421),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer 0123456789abcdef-of-a-tesT"}, 401),
        ({"Authorization": "Basic 0123456789abcdef-of-a-test"}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_whoever_is_not_the_page_changes_nothing(
    watcher: AgentProcess, headers: dict[str, str], status: int
) -> None:
    got, told = asked(watcher, f"/api/vms/{VM}/pause", "POST", {**RIGHT, **headers}, b"{}")
    assert (got, list(told)) == (status, ["error"])
    assert asked(watcher, "/api/actions") == (200, {"records": []})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"nonsense", 422),
        (b"{}", 422),
        (b'{"bytes": "1"}', 422),
        (b'{"bytes": -1}', 422),
        (b'{"bytes": 1e300}', 422),
        (b'{"bytes": 1.5}', 422),
        (b'{"bytes": 1, "force": true}', 422),
        (b'{"bytes": 1' + b" " * 10_000 + b"}", 413),
        (b"[" * 4000, 422),
    ],
)
def test_what_makes_no_sense_is_refused(watcher: AgentProcess, body: bytes, status: int) -> None:
    got, told = asked(watcher, f"/api/vms/{VM}/size", "POST", RIGHT, body)
    assert (got, list(told)) == (status, ["error"])


def test_a_size_is_set_as_safely_as_by_hand_and_written_down(
    host: HostProcess, tmp_path: Path
) -> None:
    with serving(tmp_path) as watcher:
        path = f"/api/vms/{VM}/size"
        size = json.dumps({"bytes": 48 * MIB}).encode()
        assert asked(watcher, path, "POST", RIGHT, size)[0] == 200
        outcomes = [outcome(watcher)]
        assert host.rows()["serv-a"]["actual"] == 16 * MIB
        too_little = json.dumps({"bytes": MIB}).encode()
        assert asked(watcher, path, "POST", RIGHT, too_little)[0] == 200
        outcomes.append(outcome(watcher))
        assert outcomes[0] == "reached"
        assert outcomes[1].startswith("refused: ")
        whole = json.dumps({"bytes": 64 * MIB}).encode()
        assert asked(watcher, path, "POST", RIGHT, whole)[0] == 200
        outcome(watcher)
        written = (watcher.directory / "actions.jsonl").read_text().splitlines()
        assert [json.loads(line)["who"] for line in written] == ["127.0.0.1"] * 3


def outcome(watcher: AgentProcess) -> str:
    """Of the newest thing that was asked for, once it is known."""
    newest = wait_until(
        lambda: asked(watcher, "/api/actions")[1]["records"][0]["outcome"], PATIENCE_S, "no outcome"
    )
    return str(newest)


def test_a_thousand_slow_readers_hold_up_nobody(watcher: AgentProcess) -> None:
    with ExitStack() as stack:
        for number in range(1000):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(PATIENCE_S)
            sock.connect(("127.0.0.1", port_of(watcher)))
            if number % 2:  # half of them want rounds, and read none; the others say nothing
                host = f"127.0.0.1:{port_of(watcher)}"
                with suppress(OSError):  # hung up on: there is no room
                    sock.sendall(f"GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        watcher.wait_for_rounds(5)
        assert watcher.get("/healthz")[0] == 200
    wait_until(lambda: answers(watcher), PATIENCE_S, "nobody is answered any more")


def answers(watcher: AgentProcess) -> bool:
    try:
        return asked(watcher, "/api/state")[0] == 200
    except OSError:
        return False


def test_rounds_come_one_after_the_other(watcher: AgentProcess) -> None:
    connection = HTTPConnection("127.0.0.1", port_of(watcher), timeout=PATIENCE_S)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type", "").startswith("text/event-stream")
    numbers: list[int] = []
    while len(numbers) < 3:
        line = answer.fp.readline()
        if line.startswith(b"data: "):
            numbers.append(json.loads(line[6:])["round"])
    assert numbers == sorted(set(numbers))
    connection.close()


def test_without_a_token_the_page_can_only_be_looked_at(host: HostProcess, tmp_path: Path) -> None:
    assert host.rows()
    with serving(tmp_path, '[web]\nlisten = "127.0.0.1:0"\n') as watcher:
        assert asked(watcher, "/api/state")[1]["may_act"] is False
        status, told = asked(watcher, f"/api/vms/{VM}/pause", "POST", RIGHT, b"{}")
        assert (status, "token_file" in told["error"]) == (403, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('listen = "0.0.0.0:9178"', "a token_file beside it"),
        ('listen = "127.0.0.1:0"\ntoken_file = "/nonexistent"', "a file that is there"),
        ('listen = "127.0.0.1:0"\ntoken_file = "OPEN"', "nobody else can read"),
        ('listen = "127.0.0.1:0"\ntoken_file = "SHORT"', "16 letters"),
        ('listen = "everywhere"', "an address and a port"),
    ],
)
def test_a_page_that_is_not_safe_is_not_served(tmp_path: Path, text: str, words: str) -> None:
    for name, mode, content in (("OPEN", 0o644, TOKEN), ("SHORT", 0o600, "1234")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
        text = text.replace(f'"{name}"', f'"{tmp_path / name}"')
    (tmp_path / "ballonet.toml").write_text(f"[metrics]\nlisten = '127.0.0.1:0'\n[web]\n{text}\n")
    command = [BALLONET, "agent", "--config", str(tmp_path / "ballonet.toml")]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr


def test_a_reload_moves_the_page_and_switches_it_off(host: HostProcess, tmp_path: Path) -> None:
    assert host.rows()
    with serving(tmp_path) as watcher:
        first = port_of(watcher)
        text = watcher.path.read_text()
        watcher.path.write_text(text.partition("token_file")[0])
        watcher.process.send_signal(signal.SIGHUP)
        watcher.until(lambda: watcher.said("the page is at") > 1, "it is not moved")
        assert port_of(watcher) != first
        watcher.path.write_text(text.partition("[web]")[0])
        watcher.process.send_signal(signal.SIGHUP)
        watcher.until(lambda: not answers(watcher), "it is still served")


def test_the_description_is_complete(watcher: AgentProcess) -> None:
    status, told = asked(watcher, "/api/openapi.json")
    assert (status, told["openapi"]) == (200, "3.1.0")
    assert set(told["paths"]) >= {"/api/state", "/api/vms/{vm}/size", "/api/reserve"}
    text = json.dumps(told)
    for name in told["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text


def test_it_does_what_its_description_says(watcher: AgentProcess, tmp_path: Path) -> None:
    """By schemathesis: valid requests, and those that are wrong in every way it knows."""
    done = subprocess.run(
        [
            *(str(Path(BALLONET).with_name("st")), "run"),
            f"http://127.0.0.1:{port_of(watcher)}/api/openapi.json",
            *("--header", f"Authorization: {RIGHT['Authorization']}"),
            *("--max-examples", "20", "--seed", "1", "--phases", "coverage,fuzzing,stateful"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "No issues found" in done.stdout

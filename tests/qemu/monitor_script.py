"""One client's conversation with a monitor, whoever serves it, as a transcript to compare.

Speaks through QEMU's own client library.  What may differ between two machines (versions, sizes,
times, commands only one has) is checked here by relation, and stands there as its shape.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from qemu.qmp import ExecuteError, Message, QMPClient
from tests.support.wait import PATIENCE_S, comes_true, stays_true

INTERVAL: Final = "guest-stats-polling-interval"
UNSET: Final = 2**64 - 1
PROPERTIES: Final = frozenset(
    ("guest-stats", INTERVAL, "deflate-on-oom", "free-page-hint", "free-page-reporting")
)
#: Statistics that QEMU 7.2 knows; later releases have six more.
STATS_OF_7_2: Final = frozenset(
    f"stat-{name}"
    for name in (
        *("swap-in", "swap-out", "major-faults", "minor-faults", "free-memory", "total-memory"),
        *("available-memory", "disk-caches", "htlb-pgalloc", "htlb-pgfail"),
    )
)
Transcript = list[tuple[str, Any]]


@dataclass
class Conversation:
    """A connected client, and what was said."""

    client: QMPClient
    transcript: Transcript = field(default_factory=list)
    events: list[Message] = field(default_factory=list)

    async def say(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever it returns
        """A command; its reply, or class and text of its error."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return await self.client.execute(command, named or None)
        except ExecuteError as error:
            return [error.error_class, str(error)]

    async def note(self, command: str, **arguments: object) -> None:
        """A command whose whole answer counts."""
        self.shape(f"{command} {arguments}", await self.say(command, **arguments))

    def shape(self, step: str, what: object) -> None:
        """Something that counts."""
        self.transcript.append((step, what))

    async def human(self, line: str) -> None:
        """A line of HMP whose whole answer counts."""
        self.shape(f"hmp {line!r}", await self.say("human-monitor-command", command_line=line))

    async def until(self, command: str, wanted: object, **arguments: object) -> bool:
        """Repeat a query until it answers this."""

        async def answered() -> bool:
            return bool(await self.say(command, **arguments) == wanted)

        return await comes_true(answered)

    async def told(self, name: str, data: object = None) -> bool:
        """The newest event of a name has arrived, with this data if any is given."""

        async def arrived() -> bool:
            found = [event["data"] for event in self.events if event["event"] == name]
            return bool(found) and data in (None, found[-1])

        return await comes_true(arrived)


async def converse(path: Path, balloon: str, ram_bytes: int) -> Transcript:
    """The whole conversation with a running machine; at the end it has quit."""
    transcript = await _plain(path)
    client = QMPClient("transcript")
    client.logger.disabled = True
    await client.connect(str(path))
    talk = Conversation(client, transcript)
    listening = asyncio.create_task(_listen(talk))
    await _greeting(talk)
    await _errors(talk)
    await _balloon(talk, ram_bytes)
    await _tree(talk, balloon)
    await _statistics(talk, balloon)
    await _stopping(talk, balloon)
    await _human(talk, ram_bytes)
    await _end(talk)
    listening.cancel()
    with suppress(EOFError):  # how the library tells that the other side has hung up
        await client.disconnect()
    return talk.transcript


def _seconds(event: Message) -> float:
    """When it happened."""
    stamp = event["timestamp"]
    assert isinstance(stamp, dict)
    return float(stamp["seconds"] + stamp["microseconds"] / 1e6)


async def _listen(talk: Conversation) -> None:
    with talk.client.listener() as listener:
        async for event in listener:
            talk.events.append(event)


#: Sent as they are, one after the other; the number of lines that come back for each.
PLAIN: Final = (
    (b'{"execute": "query-balloon"}\n', 1),
    (b'{"execute": "nonsense"}\n', 1),
    (b'{"execute": "qmp_capabilities", "arguments": {"enable": ["foo"]}}\n', 1),
    (b'{"execute": "qmp_capabilities", "arguments": {"bla": 1}}\n', 1),
    (b'{"execute": "qmp_capabilities", "id": 7}\n', 1),
    (b'{"execute": "qmp_capabilities", "id": 8}\n', 1),
    (b'{"execute": "query-status", "id": "a"}\n', 1),
    (b'{"execute": "query-status", "id": {"x": 1}}\n', 1),
    (b'{"execute": "query-status", "id": null}\n', 1),
    (b'{"arguments": {}}\n', 1),
    (b'{"execute": "balloon", "arguments": 3}\n', 1),
    (b'{"execute": 3}\n', 1),
    (b'{"execute": "query-status", "foo": 1}\n', 1),
    *((raw, 1) for raw in (b"[1, 2]\n", b"3\n", b'"text"\n', b"null\n")),
    *((raw, 1) for raw in (b"hello\n", b"}\n", b"]\n", b"{]\n", b'{"a" 1}\n', b'{"a": }\n')),
    (b"{'execute': 'query-status'}\n", 1),
    (b'{"execute": "query-status"}{"execute": "query-status"}\n', 2),
    (b'{"execute":', 0),
    (b'"query-status"}', 1),
    (b'\n\n {"execute":\r\n"query-status"}\n', 1),
    (b"[" * 1100 + b"]" * 1100 + b"\n", 1),
)


async def _plain(path: Path) -> Transcript:
    """What a library would not say, on a socket by itself."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
    greeting = json.loads(await reader.readline())
    transcript: Transcript = [
        ("greeting", [list(greeting), sorted(greeting["QMP"])]),
        ("capabilities", greeting["QMP"]["capabilities"]),
    ]
    for raw, count in PLAIN:
        writer.write(raw)
        for _ in range(count):
            line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
            assert line.endswith(b"\r\n")
            transcript.append((raw[:80].decode(), json.loads(line)))
    writer.close()
    await writer.wait_closed()
    return transcript


async def _greeting(talk: Conversation) -> None:
    """The machine and what it can do."""
    greeting = talk.client.greeting
    assert greeting is not None
    version = greeting.QMP.version
    assert isinstance(version, dict)
    talk.shape("version", [sorted(version), sorted(version["qemu"]), version["qemu"]["major"]])
    same = await talk.say("query-version") == version
    talk.shape("query-version is that of the greeting", same)
    await talk.note("qmp_capabilities")
    await talk.note("query-status")
    talk.shape("query-name", set(await talk.say("query-name")) <= {"name"})
    await talk.note("device-list-properties", typename="nope")
    rows = await talk.say("device-list-properties", typename="virtio-balloon-pci")
    for row in sorted(rows, key=lambda row: str(row["name"])):
        if row["name"] in PROPERTIES:
            row.pop("default-value", None)  # ours has others
            talk.shape("property of the type", row)
    names = {row["name"] for row in await talk.say("query-commands")}
    wanted = {"balloon", "query-balloon", "qom-get", "qom-set", "qom-list", "query-qmp-schema"}
    talk.shape("commands", sorted(wanted & names))
    kinds = {row["meta-type"] for row in await talk.say("query-qmp-schema")}
    talk.shape("schema", sorted(kinds & {"command", "event", "object", "builtin"}))


async def _errors(talk: Conversation) -> None:
    """Commands that are none, and arguments that are wrong."""
    await talk.note("nonsense")
    await talk.note("balloon")
    for value in ("x", 1.5, True, None, 0, -5, 2**63):
        await talk.note("balloon", value=value)
    await talk.note("balloon", value=1 << 28, foo=1)
    await talk.note("query-balloon", x=1)


async def _balloon(talk: Conversation, ram_bytes: int) -> None:
    """The target is set, reached, and told of."""
    talk.shape("empty", await talk.say("query-balloon") == {"actual": ram_bytes})
    summary = {"base-memory": ram_bytes, "plugged-memory": 0}
    talk.shape("summary", await talk.say("query-memory-size-summary") == summary)
    target = ram_bytes - (100 << 20)
    talk.events.clear()
    talk.shape("balloon", await talk.say("balloon", value=target))
    talk.shape("reached", await talk.until("query-balloon", {"actual": target}))
    last = await talk.told("BALLOON_CHANGE", {"actual": target})
    talk.shape("the last event has the last value", last)
    talk.shape("events", sorted({str(event["event"]) for event in talk.events}))
    talk.shape("event's members", sorted({name for event in talk.events for name in event}))
    seconds = [_seconds(event) for event in talk.events]
    talk.shape("few events", len(seconds) <= max(seconds) - min(seconds) + 2)
    # No multiple of a page is rounded up.
    talk.shape("balloon and a bit", await talk.say("balloon", value=target + 1000))
    talk.shape("rounded", await talk.until("query-balloon", {"actual": target + 4096}))
    await talk.note("balloon", value=2**40)
    talk.shape("at most everything", await talk.until("query-balloon", {"actual": ram_bytes}))


async def _tree(talk: Conversation, balloon: str) -> None:
    """Where the balloon is, and where nothing is."""
    name = balloon.rsplit("/", 1)[1]
    parent = await talk.say("qom-list", path="/machine/peripheral")
    talk.shape("peripherals", [row["name"].replace(name, "BALLOON") for row in parent])
    talk.shape("types", [row["type"] for row in parent])
    wanted = {"type", "guest-stats", INTERVAL}
    rows = [row for row in await talk.say("qom-list", path=balloon) if row["name"] in wanted]
    talk.shape("properties", sorted((row["name"], row["type"]) for row in rows))
    talk.shape("by its last name", len(await talk.say("qom-list", path=name)) >= len(rows))
    for path in ("/nope", "nope", ""):
        await talk.note("qom-list", path=path)
    await talk.note("qom-get", path="/nope", property="x")
    for prop in ("type", "nope"):
        talk.shape(f"balloon's {prop}", await talk.say("qom-get", path=balloon, property=prop))
        await talk.note("qom-get", path="/machine/peripheral", property=prop)
    await talk.note("qom-get", path=balloon)
    for prop in ("guest-stats", "nope", "type"):
        answer = await talk.say("qom-set", path=balloon, property=prop, value=1)
        talk.shape(f"set balloon's {prop}", answer)


async def _statistics(talk: Conversation, balloon: str) -> None:
    """Unset before they were asked for, polled, and stopped."""
    before = await _stats(talk, balloon)
    talk.shape("statistics", [sorted(before), set(before["stats"]) >= STATS_OF_7_2])
    for value in (-1, 2**32, 2**63, "x", 1.5, True, None):
        answer = await talk.say("qom-set", path=balloon, property=INTERVAL, value=value)
        talk.shape(f"interval {value!r}", answer)
    talk.shape("interval", await talk.say("qom-get", path=balloon, property=INTERVAL))
    talk.shape("every second", await talk.say("qom-set", path=balloon, property=INTERVAL, value=1))
    first = await _newer(talk, balloon, before["last-update"])
    second = await _newer(talk, balloon, first["last-update"])
    talk.shape("moves on", second["last-update"] > first["last-update"] > 0)
    total, free = (second["stats"][f"stat-{name}-memory"] for name in ("total", "free"))
    talk.shape("makes sense", 0 < free < total != UNSET)
    talk.shape("no more", await talk.say("qom-set", path=balloon, property=INTERVAL, value=0))
    kept = await _stats(talk, balloon)
    talk.shape("kept", await _stands_still(talk, balloon) and kept["last-update"] > 0)


async def _stats(talk: Conversation, balloon: str) -> dict[str, Any]:
    reply: dict[str, Any] = await talk.say("qom-get", path=balloon, property="guest-stats")
    return reply


async def _newer(talk: Conversation, balloon: str, than: int) -> dict[str, Any]:
    async def came() -> bool:
        return bool((await _stats(talk, balloon))["last-update"] > than)

    assert await comes_true(came), "no newer statistics came"
    return await _stats(talk, balloon)


async def _stands_still(talk: Conversation, balloon: str) -> bool:
    """No statistics come for longer than two intervals."""
    before = await _stats(talk, balloon)

    async def same() -> bool:
        return await _stats(talk, balloon) == before

    return await stays_true(same, 2.2)


async def _stopping(talk: Conversation, balloon: str) -> None:
    """Time stands still for a stopped machine."""
    talk.events.clear()
    await talk.say("qom-set", path=balloon, property=INTERVAL, value=1)
    await _newer(talk, balloon, (await _stats(talk, balloon))["last-update"])
    for command in ("stop", "query-status", "stop"):
        await talk.note(command)

    async def stopped() -> bool:  # what was under way may still arrive
        return await _stands_still(talk, balloon)

    talk.shape("frozen", await comes_true(stopped))
    frozen = await _stats(talk, balloon)
    for command in ("cont", "query-status", "cont"):
        await talk.note(command)
    talk.shape("thawed", bool(await _newer(talk, balloon, frozen["last-update"])))
    await talk.say("qom-set", path=balloon, property=INTERVAL, value=0)
    names = [event["event"] for event in talk.events if event["event"] in {"STOP", "RESUME"}]
    talk.shape("told", names)


async def _human(talk: Conversation, ram_bytes: int) -> None:
    """The monitor for people."""
    now = (await talk.say("query-balloon"))["actual"] // (1 << 20)
    shown = await talk.say("human-monitor-command", command_line="info balloon")
    talk.shape("info balloon", shown.replace(str(now), "N"))
    for line in (
        *("info status", "help balloon", "nonsense", "", "balloon", "balloon x", "balloon -1"),
        *("balloon 0", "balloon 1 2", "balloon 512M", "info nonsense", "info balloon x"),
        *("help nonsense", "balloon 99999999999999", "balloon\t(0x80 + 22)*2", "stop"),
        *("info status", "c"),
    ):
        await talk.human(line)
    talk.shape("balloon 300", await talk.until("query-balloon", {"actual": 300 << 20}))
    await talk.note("human-monitor-command")
    await talk.say("balloon", value=ram_bytes)


async def _end(talk: Conversation) -> None:
    """The last event."""
    talk.events.clear()
    await talk.note("quit")
    await talk.told("SHUTDOWN")
    last = [event["data"] for event in talk.events if event["event"] == "SHUTDOWN"]
    talk.shape("SHUTDOWN", last)

"""A machine's monitor as far as migrating it goes: does as told, by a script.

Part of the test peer, which shares no code with the package under test.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.json_values import json_values
from tests.support.odd_monitor import GREETING

MIB = 1 << 20


class MigratingMachine:
    """Answers as QEMU does; `looks` are what `query-migrate` shows, one after the other."""

    greeting = GREETING

    def __init__(self, *looks: dict[str, Any]) -> None:
        self.looks = list(looks)
        self.look: dict[str, Any] = {}
        self.running = True
        self.capabilities = {"events": False, "return-path": False, "postcopy-ram": False}
        self.parameters: dict[str, Any] = {
            "downtime-limit": 300,
            "max-bandwidth": 128 * MIB,
            "tls-creds": "",
        }
        self.actual = 512 * MIB
        self.used = 100 * MIB
        self.updates = 0
        self.sent: list[tuple[str, dict[str, Any]]] = []  # what changes anything
        self.refuses: set[str] = set()
        #: Commands after, or before, which the connection is lost, once each.
        self.lost_after: set[str] = set()
        self.lost_before: set[str] = set()
        self.looked = threading.Event()  # somebody has seen a migration on its way

    def names(self) -> list[str]:
        """What was sent, without what only asks."""
        return [name for name, _ in self.sent]

    def execute(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Do it, and return what it returns."""
        if not name.startswith(("query-", "qom-", "x-ballonet-")) and name != "qmp_capabilities":
            self.sent.append((name, arguments))
        method = getattr(self, "do_" + name.replace("-", "_"), None)
        if name in self.refuses or method is None:
            return {"error": {"class": "GenericError", "desc": f"{name} is refused"}}
        return {"return": method(arguments)}

    def do_qmp_capabilities(self, _: dict[str, Any]) -> object:
        return {}

    def do_query_status(self, _: dict[str, Any]) -> object:
        return {"running": self.running, "status": "running" if self.running else "paused"}

    def do_query_migrate(self, _: dict[str, Any]) -> object:
        if "migrate" in self.names() and self.looks:
            self.look = self.looks[0]
            if len(self.looks) > 1 or self.look["status"] in {"completed", "failed"}:
                del self.looks[0]
        if self.look.get("status") in {"active", "postcopy-active"}:
            self.looked.set()
        if self.look.get("status") in {"completed", "postcopy-active"}:
            self.running = False
        return self.look

    def do_query_migrate_capabilities(self, _: dict[str, Any]) -> object:
        return [{"capability": name, "state": on} for name, on in self.capabilities.items()]

    def do_migrate_set_capabilities(self, arguments: dict[str, Any]) -> object:
        for row in arguments["capabilities"]:
            self.capabilities[row["capability"]] = row["state"]
        return {}

    def do_query_migrate_parameters(self, _: dict[str, Any]) -> object:
        return self.parameters

    def do_migrate_set_parameters(self, arguments: dict[str, Any]) -> object:
        self.parameters |= arguments
        return {}

    def do_migrate(self, _: dict[str, Any]) -> object:
        return {}

    def do_migrate_start_postcopy(self, _: dict[str, Any]) -> object:
        return {}

    def do_migrate_cancel(self, _: dict[str, Any]) -> object:
        self.looks = [{"status": "cancelling"}, {"status": "cancelled"}]
        return {}

    def do_query_balloon(self, _: dict[str, Any]) -> object:
        return {"actual": self.actual}

    def do_balloon(self, arguments: dict[str, Any]) -> object:
        self.actual = arguments["value"]
        return {}

    def do_query_memory_size_summary(self, _: dict[str, Any]) -> object:
        return {"base-memory": 512 * MIB}

    def do_qom_list(self, _: dict[str, Any]) -> object:
        return [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]

    def do_qom_get(self, arguments: dict[str, Any]) -> object:
        if arguments["property"] != "guest-stats":
            return arguments["property"] == "free-page-hint" or 0
        self.updates += 1
        free = self.actual - self.used
        stats = {"stat-available-memory": free, "stat-free-memory": free}
        return {"stats": stats, "last-update": 1_700_000_000 + self.updates}

    def do_qom_set(self, _: dict[str, Any]) -> object:
        return {}


class OurMigratingMachine(MigratingMachine):
    """A guest behind our own device, which tells what it was asked for beside what it has."""

    greeting = GREETING.replace(b'"package": ""', b'"package": "ballonet"')

    def __init__(self, target: int, *looks: dict[str, Any]) -> None:
        super().__init__(*looks)
        self.target = target

    def do_balloon(self, arguments: dict[str, Any]) -> object:
        self.target = arguments["value"]
        return super().do_balloon(arguments)

    def do_query_commands(self, _: dict[str, Any]) -> object:
        return [{"name": "x-ballonet-info"}]

    def do_x_ballonet_info(self, _: dict[str, Any]) -> object:
        ram = 512 * MIB
        pages = {
            "actual-pages": (ram - self.actual) >> 12,
            "target-pages": (ram - self.target) >> 12,
        }
        return {
            "connected": True,
            "running": True,
            "ram": ram,
            "features": ["FREE_PAGE_HINT"],
        } | pages


@contextmanager
def serving(machine: MigratingMachine, path: Path) -> Iterator[MigratingMachine]:
    """Listens at `path` inside the block, for one client after the other."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=_serve, args=(listening, machine), daemon=True).start()
        try:
            yield machine
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, machine: MigratingMachine) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(machine.greeting)
                _talk(connection, machine)


def _talk(connection: socket.socket, machine: MigratingMachine) -> None:
    for command, _ in json_values(connection):
        name = command["execute"]
        if name in machine.lost_before:
            machine.lost_before.remove(name)
            return
        reply = machine.execute(name, command.get("arguments", {}))
        if name in machine.lost_after:
            machine.lost_after.remove(name)
            return
        connection.sendall(json.dumps(reply | {"id": command.get("id")}).encode() + b"\r\n")

"""What a migration changes of a machine's settings for itself, and puts back.

Units: as QEMU's parameters have them: milliseconds, bytes a second.
Source: QEMU qapi/migration.json MigrationCapability, MigrationParameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ballonet.errors import MigrationError, MonitorError
from ballonet.vms.machine import MachineMigration

__all__ = ["MigrationRequest", "MigrationSetup"]

#: The most that QEMU takes [migration/options.c MAX_MIGRATE_DOWNTIME].
DOWNTIME_MOST_MS: Final = 2_000_000
#: Where the destination can answer.
_TWO_WAY: Final = ("unix:", "tcp:")


@dataclass(frozen=True, slots=True)
class MigrationRequest:
    """What somebody wants; None: as the machine has it."""

    uri: str  #: as the machine understands it
    downtime_ms: int | None = None  #: for which the guest may stand still
    bandwidth_bytes_per_s: int | None = None
    timeout_s: float | None = None  #: None: however long it takes
    forces: bool = False  #: when time is over the guest stands still for the rest
    postcopy: bool = False  #: after the first pass the guest goes on at the destination
    squeezes: bool = False
    hints: bool = True
    verifies: bool = False
    resumes: bool = False  #: a post-copy that was interrupted goes on

    def capabilities(self) -> dict[str, bool]:
        """Those without which it is not what was asked for: what to switch, under QEMU's names."""
        wanted = {
            "postcopy-ram": (self.postcopy, True),
            "x-ballonet-hints": (not self.hints, False),
            "x-ballonet-verify": (self.verifies, True),
        }
        return {name: state for name, (is_wanted, state) in wanted.items() if is_wanted}

    def welcome_capabilities(self) -> dict[str, bool]:
        """Those that make it better where the machine knows them.

        With a return path the source has succeeded only when the destination says so, and goes on
        if that cannot load what it was sent.
        """
        return {"events": True} | ({"return-path": True} if self.uri.startswith(_TWO_WAY) else {})

    def parameters(self) -> dict[str, int]:
        """What to change, under QEMU's names."""
        wanted = {
            "downtime-limit": self.downtime_ms,
            "max-bandwidth": self.bandwidth_bytes_per_s,
        }
        return {name: value for name, value in wanted.items() if value is not None}


class MigrationSetup:
    """Changes, and what was there before."""

    def __init__(self) -> None:
        self._found_capabilities: dict[str, bool] = {}
        self._found_parameters: dict[str, int] = {}
        self._given_parameters: dict[str, int] = {}
        self.has_postcopy = False  #: it is on, whoever switched it

    async def apply(self, migration: MachineMigration, request: MigrationRequest) -> None:
        """Raises: MonitorError; MigrationError, if the machine does not know what is wanted."""
        found = await migration.capabilities()
        wanted = request.capabilities()
        for name in wanted:
            if name not in found:
                raise MigrationError(f"this machine cannot do that: it does not know {name}")
        wanted |= {
            name: state for name, state in request.welcome_capabilities().items() if name in found
        }
        self.has_postcopy = wanted.get("postcopy-ram", found.get("postcopy-ram", False))
        await self.change(migration, request.parameters())
        changed = {name: state for name, state in wanted.items() if found[name] != state}
        # What is to be put back is known before anything is changed: this may be cut short.
        self._found_capabilities = {name: found[name] for name in changed}
        if changed:
            await migration.set_capabilities(changed)

    async def change(self, migration: MachineMigration, values: Mapping[str, int]) -> None:
        """Other parameters. Raises: MonitorError; MigrationError for one that is not known."""
        if not values:
            return
        found = await migration.parameters()
        for name, value in values.items():
            if name not in found:
                raise MigrationError(f"this machine cannot do that: it does not know {name}")
            self._found_parameters.setdefault(name, found[name])
            self._given_parameters[name] = value
        await migration.set_parameters(values)

    async def put_back(self, migration: MachineMigration) -> None:
        """All as it was, but for what somebody else has changed meanwhile.

        What cannot be put back, as the machine is gone or does not take it, stays in `left`.
        """
        with suppress(MonitorError):
            if self._found_parameters:
                now = await migration.parameters()
                back = {
                    name: value
                    for name, value in self._found_parameters.items()
                    if now.get(name) == self._given_parameters[name]
                }
                if back:
                    await migration.set_parameters(back)
                self._found_parameters = {}
        with suppress(MonitorError):
            if self._found_capabilities:
                await migration.set_capabilities(self._found_capabilities)
                self._found_capabilities = {}

    @property
    def left(self) -> Mapping[str, object]:
        """What was not put back: name and value."""
        return self._found_parameters | self._found_capabilities

"""What a host's own monitor takes and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from ballonet.qmp.commands import run_command
from ballonet.qmp.errors import CommandError
from ballonet.qmp.host_commands import HOST_COMMANDS, MEMORY_BYTES_MIN


class FakeHost:
    """Remembers whom it was told to serve."""

    def __init__(self) -> None:
        self.added: list[tuple[str, int | None]] = []

    async def add_guest(self, name: str, memory_bytes: int | None) -> dict[str, object]:
        self.added.append((name, memory_bytes))
        return {}


def add(**arguments: object) -> FakeHost:
    host = FakeHost()

    async def obey() -> None:
        answer = run_command(HOST_COMMANDS["x-ballonet-add-guest"], host, arguments)
        assert isinstance(answer, Awaitable)
        await answer

    asyncio.run(obey())
    return host


@pytest.mark.parametrize("memory", [-1, 0, MEMORY_BYTES_MIN - 1, True, False, "1G", 1.5, 2**63, {}])
def test_memory_that_is_none_is_refused(memory: object) -> None:
    with pytest.raises(CommandError, match="memory"):
        add(name="web", memory=memory)


def test_memory_may_be_given_or_left_out() -> None:
    assert add(name="web").added == [("web", None)]
    assert add(name="web", memory=MEMORY_BYTES_MIN).added == [("web", MEMORY_BYTES_MIN)]

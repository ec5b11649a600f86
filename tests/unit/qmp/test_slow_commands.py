"""Commands whose answer takes time."""

from __future__ import annotations

import asyncio
import json

from ballonet.qmp.commands import Arguments, Command
from ballonet.qmp.errors import CommandError
from ballonet.qmp.session import ServerSession


class Counter:
    """A machine that counts slowly, and only to one."""

    def __init__(self) -> None:
        self.count = 0

    async def add(self) -> object:
        """Count on. Raises: CommandError."""
        await asyncio.sleep(0)
        if self.count:
            raise CommandError("enough")
        self.count += 1
        return {}


def _add(counter: Counter, _: Arguments) -> object:
    return counter.add()


COMMANDS = {"add": Command(_add), "count": Command(lambda counter, _: counter.count)}


def talk(text: str) -> list[dict[str, object]]:
    """What a client that says this is answered."""
    session = ServerSession(Counter(), COMMANDS)

    async def serve() -> list[bytes]:
        replies = session.feed(b'{"execute": "qmp_capabilities"}' + text.encode())
        return [one if isinstance(one, bytes) else await one for one in replies]

    return [json.loads(reply) for reply in asyncio.run(serve())[1:]]


def test_the_next_command_is_obeyed_when_a_slow_one_has_been_answered() -> None:
    said = talk('{"execute": "add", "id": 7}{"execute": "count"}')
    assert said == [{"return": {}, "id": 7}, {"return": 1}]


def test_a_slow_command_can_be_refused_late() -> None:
    said = talk('{"execute": "add"}{"execute": "add", "id": 1}')
    assert said[1] == {"id": 1, "error": {"class": "GenericError", "desc": "enough"}}

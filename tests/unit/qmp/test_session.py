"""One client's protocol, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ballonet.errors import SettingsError, UsageError
from ballonet.qmp.commands import Command, Parameter
from ballonet.qmp.limiter import Event
from ballonet.qmp.session import ServerSession


def _raise(error: Exception) -> object:
    raise error


COMMANDS = {
    "settings": Command(lambda _, __: _raise(SettingsError("size", 1, "2"))),
    "gone": Command(lambda _, __: _raise(UsageError("the device does not run any more"))),
    "slow": Command(lambda _, __: _raise(TimeoutError())),
    "bug": Command(lambda _, __: _raise(ZeroDivisionError("x"))),
    "no-json": Command(lambda _, __: {"a": object()}),
    "deep": Command(lambda _, __: _raise(RecursionError())),
    "ok": Command(lambda _, arguments: arguments, (Parameter("x", "any", required=False),), "any"),
}


class Talk:
    """A client of a session."""

    def __init__(self) -> None:
        self.bugs: list[Exception] = []
        self.session = ServerSession(None, COMMANDS, self.bugs.append)

    def say(self, text: str | bytes) -> list[dict[str, Any]]:
        raw = text.encode() if isinstance(text, str) else text
        replies = list(self.session.feed(raw))
        assert all(isinstance(reply, bytes) and reply.endswith(b"\r\n") for reply in replies)
        return [json.loads(reply) for reply in replies if isinstance(reply, bytes)]


@pytest.fixture
def talk() -> Talk:
    made = Talk()
    assert made.say('{"execute": "qmp_capabilities"}') == [{"return": {}}]
    return made


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("settings", "size: got 1, expected 2"),
        ("gone", "the device does not run any more"),
        ("slow", "The device does not answer"),
        ("bug", "This is a bug in ballonet: ZeroDivisionError"),
        ("no-json", "This is a bug in ballonet: TypeError"),
        ("deep", "This is a bug in ballonet: RecursionError"),
    ],
)
def test_whatever_a_command_raises_is_an_error_reply_and_the_session_goes_on(
    talk: Talk, command: str, words: str
) -> None:
    (reply,) = talk.say(f'{{"execute": "{command}", "id": [1]}}')
    assert reply == {"id": [1], "error": {"class": "GenericError", "desc": words}}
    assert talk.say('{"execute": "ok"}') == [{"return": {}}]
    assert len(talk.bugs) == ("bug in ballonet" in words)


def test_before_negotiation_nothing_is_obeyed_and_no_event_is_told() -> None:
    talk = Talk()
    (reply,) = talk.say('{"execute": "ok"}')
    assert reply["error"]["class"] == "CommandNotFound"
    assert talk.session.event(Event("STOP")) is None
    talk.say('{"execute": "qmp_capabilities"}')
    assert talk.session.event(Event("STOP")) is not None


def test_an_event_says_when_it_happened(talk: Talk) -> None:
    told = talk.session.event(Event("BALLOON_CHANGE", {"actual": 5}, 1_234_567_890))
    assert told is not None
    assert json.loads(told) == {
        "timestamp": {"seconds": 1, "microseconds": 234567},
        "event": "BALLOON_CHANGE",
        "data": {"actual": 5},
    }


def test_a_client_that_enables_it_may_ask_out_of_band_and_is_told_that_no_command_can() -> None:
    talk = Talk()
    assert json.loads(talk.session.greeting())["QMP"]["capabilities"] == ["oob"]
    (early,) = talk.say('{"exec-oob": "ok"}')
    assert early["error"]["desc"] == "QMP input member 'exec-oob' is unexpected"
    enable = '{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'
    assert talk.say(enable) == [{"return": {}}]
    descs = [
        talk.say(text)[0]["error"]["desc"]
        for text in (
            '{"exec-oob": "ok"}',
            '{"exec-oob": "nope"}',
            '{"exec-oob": 1}',
            '{"exec-oob": "ok", "execute": "ok"}',
        )
    ]
    assert descs == [
        "The command ok does not support OOB",
        "The command nope has not been found",
        "QMP input member 'exec-oob' must be a string",
        "QMP input member 'execute' clashes with 'exec-oob'",
    ]
    assert talk.say('{"execute": "ok"}') == [{"return": {}}]


def test_without_enabling_it_nobody_may_ask_out_of_band(talk: Talk) -> None:
    (reply,) = talk.say('{"exec-oob": "ok", "id": 1}')
    wanted = "QMP input member 'exec-oob' is unexpected"
    assert reply == {"id": 1, "error": {"class": "GenericError", "desc": wanted}}


@pytest.mark.parametrize(
    ("enable", "words"),
    [
        ('["foo"]', "Parameter 'null' does not accept value 'foo'"),
        ("[1]", "Invalid parameter type for 'enable[0]', expected: string"),
        ("1", "Invalid parameter type for 'enable', expected: array"),
    ],
)
def test_what_nobody_can_enable_is_refused(enable: str, words: str) -> None:
    command = f'{{"execute": "qmp_capabilities", "arguments": {{"enable": {enable}}}}}'
    (reply,) = Talk().say(command)
    assert reply["error"]["desc"] == words

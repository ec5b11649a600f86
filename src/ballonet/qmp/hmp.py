"""HMP: the monitor's commands for people, one line each.

A line is what QEMU sees: bytes, with C's white space.  The words are QEMU's.
Source: QEMU hmp-commands.hx, monitor/hmp.c, hw/core/machine-hmp-cmds.c.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from ballonet.qmp.errors import CommandError, NoBalloonError, WrongLineError
from ballonet.qmp.expression import SPACE, evaluate, wrap
from ballonet.qmp.machine import MonitoredMachine
from ballonet.units import format_bytes
from ballonet.virtio.stats import STATS, StatUnit

__all__ = ["HMP_COMMANDS", "INFO_COMMANDS", "run_line"]

_MIB: Final = 1 << 20
#: QEMU's room for a word, and for words, where it asks what help is wanted for.
_WORD_BYTES_MAX, _WORDS_MAX = 1023, 16
#: The character 0, which would end a line of C.
_NUL: Final = b"\xc0\x80"
_ESCAPES: Final = dict(zip(b"nr\\'\"", b"\n\r\\'\"", strict=True))


#: Text, or what has to be awaited for it.
Printed = str | Awaitable[str]


class HmpCommand(NamedTuple):
    """One row: what it does with the rest of the line, and its line of help."""

    run: Callable[[MonitoredMachine, bytes], Printed]
    arguments: str
    help: str
    alias: str = ""

    def title(self, name: str) -> str:
        """Its names, as QEMU writes them."""
        return f"{name}|{self.alias}" if self.alias else name


def run_line(machine: MonitoredMachine, line: str) -> Printed:
    """Execute one line; what is printed, errors too."""
    printed = _execute(machine, line.encode().replace(b"\0", _NUL))
    return printed.replace("\n", "\r\n") if isinstance(printed, str) else printed


def _execute(machine: MonitoredMachine, line: bytes) -> Printed:
    at = _after_space(line, 0)
    if at == len(line):
        return ""
    table, end = HMP_COMMANDS, _end_of_name(line, at)
    name = _find(table, line[at:end])
    at = _after_space(line, end)
    if name == "info" and at < len(line):
        table, end = INFO_COMMANDS, _end_of_name(line, at)
        name = _find(table, line[at:end])
        at = _after_space(line, end)
    if name is None:
        return f"unknown command: '{_shown(line[:end])}'\n"
    try:
        return _run(machine, table, name, line[at:])
    except WrongLineError as error:
        hint = _shown(line[:at].rstrip(SPACE))
        return f'{error}\nTry "help {hint}" for more information\n'
    except CommandError as error:
        return f"Error: {error.desc}\n"


def _run(
    machine: MonitoredMachine, table: Mapping[str, HmpCommand], name: str, rest: bytes
) -> Printed:
    row = table[name]
    if rest and not row.arguments:
        raise _too_much(row.title(name))
    return row.run(machine, rest)


def _too_much(title: str) -> WrongLineError:
    return WrongLineError(f"{title}: extraneous characters at the end of line")


def _find(table: Mapping[str, HmpCommand], word: bytes) -> str | None:
    """The name of the command that a word means."""
    for name, row in table.items():
        if word and word in (name.encode(), row.alias.encode()):
            return name
    return None


def _after_space(line: bytes, at: int) -> int:
    return len(line) - len(line[at:].lstrip(SPACE))


def _end_of_name(line: bytes, at: int) -> int:
    while at < len(line) and line[at] not in SPACE + b"/":
        at += 1
    return at


def _shown(raw: bytes) -> str:
    return raw.replace(_NUL, b"\0").decode(errors="replace")


def _balloon(machine: MonitoredMachine, rest: bytes) -> Printed:
    mib, more = evaluate(rest)
    if mib < 0:
        raise WrongLineError("enter a positive value")
    if more:
        raise _too_much("balloon")
    if machine.ram_bytes is None:
        raise NoBalloonError
    size = wrap(mib * _MIB)
    if size <= 0:
        raise CommandError(f"Parameter '{machine.version.size_parameter}' expects a size")
    return _nothing(machine.set_logical_bytes(size))


def _info(_: MonitoredMachine, __: bytes) -> str:
    return _help_on("info ", INFO_COMMANDS)


def _help(_: MonitoredMachine, rest: bytes) -> str:
    words = _words(rest)
    if words is None:
        return ""
    if not words:
        return _help_on("", HMP_COMMANDS)
    name = _find(HMP_COMMANDS, words[0])
    if name is None:
        return f"unknown command: '{_shown(words[0])}'\n"
    if name != "info":
        return _help_on("", {name: HMP_COMMANDS[name]})
    if not words[1:]:
        return _help_on("info ", INFO_COMMANDS)
    about = _find(INFO_COMMANDS, words[1])
    if about is None:
        return f"unknown command: '{_shown(words[0])} {_shown(words[1])}'\n"
    return _help_on("info ", {about: INFO_COMMANDS[about]})


def _help_on(prefix: str, table: Mapping[str, HmpCommand]) -> str:
    return "".join(
        f"{prefix}{row.title(name)} {row.arguments} -- {row.help}\n" for name, row in table.items()
    )


def _words(rest: bytes) -> list[bytes] | None:
    """Words, some of them perhaps in quotes; None if they cannot be told apart."""
    words: list[bytes] = []
    at = _after_space(rest, 0)
    while at < len(rest):
        if len(words) == _WORDS_MAX:
            return None
        word, at = _quoted(rest, at + 1) if rest[at] == ord('"') else _unquoted(rest, at)
        if word is None:
            return None
        words.append(word[:_WORD_BYTES_MAX])
        at = _after_space(rest, at)
    return words


def _unquoted(rest: bytes, at: int) -> tuple[bytes, int]:
    begin = at
    while at < len(rest) and rest[at] not in SPACE:
        at += 1
    return rest[begin:at], at


def _quoted(rest: bytes, at: int) -> tuple[bytes | None, int]:
    """A word up to its closing quote, and where it ends; None if it is none."""
    word = bytearray()
    while at < len(rest) and rest[at] != ord('"'):
        char: int | None = rest[at]
        if char == ord("\\"):
            at += 1
            char = _ESCAPES.get(rest[at]) if at < len(rest) else None
        if char is None:
            return None, at
        word.append(char)
        at += 1
    return (bytes(word) if at < len(rest) else None), at + 1


def _stop(machine: MonitoredMachine, _: bytes) -> Printed:
    return _nothing(machine.stop())


def _cont(machine: MonitoredMachine, _: bytes) -> Printed:
    return _nothing(machine.cont())


async def _nothing(done: Awaitable[None]) -> str:
    """What a command prints that only does something."""
    await done
    return ""


def _quit(machine: MonitoredMachine, _: bytes) -> str:
    machine.quit()
    return ""


def _info_balloon(machine: MonitoredMachine, _: bytes) -> str:
    if machine.ram_bytes is None:
        raise NoBalloonError
    return f"balloon: actual={machine.logical_bytes // _MIB}\n"


def _info_status(machine: MonitoredMachine, _: bytes) -> str:
    return f"VM status: {'running' if machine.running else 'paused'}\n"


def _info_version(machine: MonitoredMachine, _: bytes) -> str:
    return f"{machine.version.text}ballonet\n"


def _info_stats(machine: MonitoredMachine, _: bytes) -> str:
    values = machine.stats
    lines = []
    for row in STATS:
        if row.name in values:
            value = values[row.name]
            shown = format_bytes(value) if row.unit is StatUnit.BYTES else str(value)
            lines.append(f"{row.name}: {shown}\n")
    return "".join(lines) or "no statistics\n"


INFO_COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "balloon": HmpCommand(_info_balloon, "", "show balloon information"),
    "stats": HmpCommand(_info_stats, "", "show the guest's memory statistics"),
    "status": HmpCommand(_info_status, "", "show the current VM status (running|paused)"),
    "version": HmpCommand(_info_version, "", "show the version of QEMU"),
}
HMP_COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "balloon": HmpCommand(_balloon, "target", "request VM to change its memory allocation (in MB)"),
    "cont": HmpCommand(_cont, "", "resume emulation", "c"),
    "help": HmpCommand(_help, "[cmd]", "show the help", "?"),
    "info": HmpCommand(_info, "[subcommand]", "show various information about the system state"),
    "quit": HmpCommand(_quit, "", "quit the emulator", "q"),
    "stop": HmpCommand(_stop, "", "stop emulation", "s"),
}

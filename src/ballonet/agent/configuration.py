"""What the agent is told by /etc/ballonet/ballonet.toml, checked: each fault with its line.

Every key stands once, as a field with its type, its limits, what it means and what is allowed; the
program's messages and docs/agent.md are made from that.
Units: seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from ballonet.agent.autopilot.settings import AutopilotSettings, VmSettings
from ballonet.agent.keys import Key, keys_of, meta
from ballonet.errors import SettingsError
from ballonet.runtime.files import read_small

__all__ = [
    "DEFAULT_PATH",
    "AgentSettings",
    "Configuration",
    "MetricsSettings",
    "WebSettings",
    "configuration_keys",
    "listen_address",
    "parse_configuration",
    "read_configuration",
    "show_configuration",
]

DEFAULT_PATH: Final = Path("/etc/ballonet/ballonet.toml")

_PORT: Final = r"(?:6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|\d{1,4})"
_LISTEN: Final = rf"^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):{_PORT}$"
#: Of a wrong value, in a message.
_SHOWN_LETTERS: Final = 60

_Pattern = Annotated[str, Meta(min_length=1)]


class AgentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[agent]`."""

    period_s: Annotated[
        float,
        meta("time from one round of observations to the next", "0.5 to 3600", ge=0.5, le=3600),
    ] = 2.0
    poll_interval_s: Annotated[
        int,
        meta(
            "how often guests that nobody asks for statistics are asked; 0: never",
            "a whole number, 0 to 3600",
            ge=0,
            le=3600,
        ),
    ] = 2
    match: Annotated[
        tuple[_Pattern, ...],
        meta("the machines that are watched, by name or `kind:name`", "a list of patterns"),
    ] = ("*",)
    exclude: Annotated[
        tuple[_Pattern, ...], meta("those of them that are not", "a list of patterns")
    ] = ()


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[metrics]`."""

    listen: Annotated[
        str, meta("where metrics are served", "an address and a port, as in 127.0.0.1:9177")
    ] = "127.0.0.1:9177"

    def __post_init__(self) -> None:
        """Raises: ValueError, which msgspec turns into its own."""
        if not re.fullmatch(_LISTEN, self.listen):
            raise ValueError("no address and port")


class WebSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[web]`."""

    listen: Annotated[
        str,
        meta(
            "where the page is served; empty: nowhere",
            "an address and a port, as in 127.0.0.1:9178",
        ),
    ] = ""
    token_file: Annotated[
        str,
        meta(
            "whoever has the token in it may change things; empty: nobody may",
            "a file that nobody but its owner can read",
        ),
    ] = ""

    def __post_init__(self) -> None:
        """Raises: ValueError, which msgspec turns into its own."""
        if self.listen and not re.fullmatch(_LISTEN, self.listen):
            raise ValueError("no address and port")


class Configuration(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    agent: AgentSettings = AgentSettings()
    metrics: MetricsSettings = MetricsSettings()
    autopilot: AutopilotSettings = AutopilotSettings()
    web: WebSettings = WebSettings()


_TABLES: Final[Mapping[str, type[Struct]]] = {
    "agent": AgentSettings,
    "metrics": MetricsSettings,
    "autopilot": AutopilotSettings,
    "web": WebSettings,
}
#: In `[autopilot]`: tables of settings, each for the machines of a pattern.
_OF_VMS: Final = "vm"


def configuration_keys() -> Iterator[Key]:
    """Every key, in order."""
    for table, settings in _TABLES.items():
        yield from keys_of(table, settings)
    yield from keys_of(f'autopilot.{_OF_VMS}."PATTERN"', VmSettings)


def read_configuration(path: Path | None, web: str | None = None) -> Configuration:
    """A file, or the one at the default path, if it is there.

    `web`: where the page is served, whatever the file says.
    Raises: SettingsError, of one line: file, line, key, what is wrong, what is allowed.
    """
    configuration = _read(path)
    if web is None:
        return configuration
    if not re.fullmatch(_LISTEN, web):
        raise SettingsError("--web", web, "an address and a port, as in 127.0.0.1:9178")
    page = msgspec.structs.replace(configuration.web, listen=web)
    return msgspec.structs.replace(configuration, web=page)


def _read(path: Path | None) -> Configuration:
    """Raises: SettingsError."""
    file = path or DEFAULT_PATH
    try:
        data = read_small(file)
    except ValueError as error:
        raise SettingsError(str(file), str(error), "a file of settings") from error
    if data is None:
        if path is None:
            return Configuration()
        raise SettingsError("--config", str(path), "a file that is there")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{file}:{line}", data[error.start : error.end], "UTF-8") from error
    return parse_configuration(text, str(file))


def parse_configuration(text: str, file: str) -> Configuration:
    """The text of a file. Raises: SettingsError."""
    try:
        tables = msgspec.toml.decode(text)
    except msgspec.DecodeError as error:
        raise _syntax_error(text, file, str(error)) from error
    for table, values in tables.items():
        place = f"{file}:{_line_of(text, (table,))}"
        if table not in _TABLES:
            raise SettingsError(f"{place}: table", table, _nearest(table, list(_TABLES)))
        if not isinstance(values, dict):
            raise SettingsError(f"{place}: {table}", values, "a table of settings")
        for name, value in values.items():
            if (table, name) == ("autopilot", _OF_VMS):
                _check_of_vms(value, text, file)
            else:
                place = f"{file}:{_line_of(text, (table, name))}"
                _check(table, _TABLES[table], name, value, place)
    return msgspec.convert(tables, Configuration)


def show_configuration(configuration: Configuration) -> Iterator[str]:
    """What is set, in the form of the file."""
    for table, kind in _TABLES.items():
        yield from _shown(table, kind, getattr(configuration, table))
    for pattern, settings in configuration.autopilot.vm.items():
        yield from _shown(f"autopilot.{_OF_VMS}.{json.dumps(pattern)}", VmSettings, settings)


def _shown(table: str, kind: type[Struct], settings: Struct) -> Iterator[str]:
    yield f"[{table}]"
    for key in keys_of(table, kind):
        yield f"{key.name} = {json.dumps(getattr(settings, key.name))}"


def listen_address(listen: str) -> tuple[str, int]:
    """Host and port of a checked `listen`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _check_of_vms(patterns: object, text: str, file: str) -> None:
    """Raises: SettingsError."""
    above = ("autopilot", _OF_VMS)
    if not isinstance(patterns, dict):
        place = f"{file}:{_line_of(text, above)}: {'.'.join(above)}"
        raise SettingsError(place, patterns, 'tables: [autopilot.vm."PATTERN"]')
    for pattern, values in patterns.items():
        table = f"{'.'.join(above)}.{json.dumps(pattern)}"
        if not isinstance(values, dict):
            place = f"{file}:{_line_of(text, (*above, pattern))}: {table}"
            raise SettingsError(place, values, "a table of settings")
        for name, value in values.items():
            place = f"{file}:{_line_of(text, (*above, pattern, name))}"
            _check(table, VmSettings, name, value, place)


def _check(table: str, settings: type[Struct], name: str, value: object, place: str) -> None:
    """Raises: SettingsError, if the file may not say that."""
    keys = {key.name: key for key in keys_of(table, settings)}
    if name not in keys:
        raise SettingsError(f"{place}: key in [{table}]", name, _nearest(name, list(keys)))
    try:
        msgspec.convert({name: value}, settings)
    except msgspec.ValidationError as error:
        shown = repr(value)
        got = value if len(shown) <= _SHOWN_LETTERS else shown[:_SHOWN_LETTERS] + "…"
        raise SettingsError(f"{place}: {table}.{name}", got, keys[name].allowed) from error


def _nearest(got: str, known: Sequence[str]) -> str:
    """All that are allowed, and which of them was meant, if that can be guessed."""
    near = get_close_matches(got, known, 1)
    return f"one of {', '.join(f'{one} (nearest)' if one in near else one for one in known)}"


def _syntax_error(text: str, file: str, problem: str) -> SettingsError:
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", problem)
    lines = text.rstrip("\n").split("\n")
    line = min(int(found[1]) if found and found[1] else len(lines), len(lines))
    got = lines[line - 1].strip()[:_SHOWN_LETTERS]
    words = problem[: found.start()] if found else problem
    return SettingsError(f"{file}:{line}", got, f"TOML ({words[:1].lower()}{words[1:]})")


def _line_of(text: str, path: Sequence[str]) -> int:
    """Where a key, or a table, begins: what the lines before it say does not have it.

    Only beginnings that are whole TOML are asked, so that nothing inside a value is taken for a
    key, and no grammar stands here.
    """
    lines = text.split("\n")
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            said: Any = msgspec.toml.decode("\n".join(lines[:end]))
        except msgspec.DecodeError:
            continue
        for name in path:
            said = said.get(name) if isinstance(said, dict) else None
        if said is not None:
            break
        begin = end
    return begin + 1

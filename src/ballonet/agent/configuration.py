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
from typing import Annotated, Any, Final, NamedTuple, get_args

import msgspec
from msgspec import Meta, Struct

from ballonet.errors import SettingsError
from ballonet.runtime.files import read_small

__all__ = [
    "DEFAULT_PATH",
    "AgentSettings",
    "Configuration",
    "Key",
    "MetricsSettings",
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


def _meta(meaning: str, allowed: str, **limits: Any) -> Meta:  # noqa: ANN401 - those of Meta
    return Meta(description=meaning, extra={"allowed": allowed}, **limits)


class AgentSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[agent]`."""

    period_s: Annotated[
        float,
        _meta("time from one round of observations to the next", "0.5 to 3600", ge=0.5, le=3600),
    ] = 2.0
    poll_interval_s: Annotated[
        int,
        _meta(
            "how often guests that nobody asks for statistics are asked; 0: never",
            "a whole number, 0 to 3600",
            ge=0,
            le=3600,
        ),
    ] = 2
    match: Annotated[
        tuple[_Pattern, ...],
        _meta("the machines that are watched, by name or `kind:name`", "a list of patterns"),
    ] = ("*",)
    exclude: Annotated[
        tuple[_Pattern, ...], _meta("those of them that are not", "a list of patterns")
    ] = ()


class MetricsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[metrics]`."""

    listen: Annotated[
        str, _meta("where metrics are served", "an address and a port, as in 127.0.0.1:9177")
    ] = "127.0.0.1:9177"

    def __post_init__(self) -> None:
        """Raises: ValueError, which msgspec turns into its own."""
        if not re.fullmatch(_LISTEN, self.listen):
            raise ValueError("no address and port")


class Configuration(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    agent: AgentSettings = AgentSettings()
    metrics: MetricsSettings = MetricsSettings()


_TABLES: Final[Mapping[str, type[Struct]]] = {"agent": AgentSettings, "metrics": MetricsSettings}


class Key(NamedTuple):
    """One key of the file."""

    table: str
    name: str
    default: object
    meaning: str
    allowed: str


def configuration_keys() -> Iterator[Key]:
    """Every key, in order."""
    for table, settings in _TABLES.items():
        for field in msgspec.structs.fields(settings):
            meta = next(one for one in get_args(field.type) if isinstance(one, Meta))
            meaning, extra = meta.description or "", meta.extra or {}
            yield Key(table, field.name, field.default, meaning, str(extra["allowed"]))


def read_configuration(path: Path | None) -> Configuration:
    """A file, or the one at the default path, if it is there.

    Raises: SettingsError, of one line: file, line, key, what is wrong, what is allowed.
    """
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
            _check(table, name, value, f"{file}:{_line_of(text, (table, name))}")
    return msgspec.convert(tables, Configuration)


def show_configuration(configuration: Configuration) -> Iterator[str]:
    """What is set, in the form of the file."""
    for table in _TABLES:
        yield f"[{table}]"
        settings = getattr(configuration, table)
        for key in configuration_keys():
            if key.table == table:
                yield f"{key.name} = {json.dumps(getattr(settings, key.name))}"


def listen_address(listen: str) -> tuple[str, int]:
    """Host and port of a checked `listen`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _check(table: str, name: str, value: object, place: str) -> None:
    """Raises: SettingsError, if the file may not say that."""
    keys = {key.name: key for key in configuration_keys() if key.table == table}
    if name not in keys:
        raise SettingsError(f"{place}: key in [{table}]", name, _nearest(name, list(keys)))
    try:
        msgspec.convert({name: value}, _TABLES[table])
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

"""The page's server, as the configuration wants it.

Only a machine's own users can reach an address of its loopback; for any other there has to be a
token, because a size can be asked for only by whoever has it.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.agent.configuration import WebSettings, listen_address
from ballonet.agent.past import Past
from ballonet.agent.web.guard import is_loopback
from ballonet.agent.web.server import WebServer
from ballonet.agent.web.web_state import WebState
from ballonet.errors import SettingsError
from ballonet.runtime.files import read_small

__all__ = ["made_server"]

_LETTERS_LEAST: Final = 16


def made_server(
    settings: WebSettings, autopilot: Autopilot, past: Past, directory: Path
) -> WebServer:
    """One that serves nothing yet. Raises: SettingsError."""
    host, port = listen_address(settings.listen)
    token = _token(settings.token_file) if settings.token_file else ""
    if not token and not is_loopback(host):
        expected = "an address of the loopback, or a token_file beside it"
        raise SettingsError("[web] listen", settings.listen, expected)
    state = WebState(autopilot, past, directory, may_act=bool(token))
    return WebServer(state, host, port, token)


def _token(name: str) -> str:
    """Raises: SettingsError."""
    path, key = Path(name), "[web] token_file"
    try:
        data = read_small(path)
        mode = 0 if data is None else path.stat().st_mode
    except (OSError, ValueError) as error:
        raise SettingsError(key, name, f"a file that can be read: {error}") from error
    if data is None:
        raise SettingsError(key, name, "a file that is there")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(key, name, "a file that nobody else can read (mode 0600)")
    token = data.decode(errors="replace").strip()
    if len(token) < _LETTERS_LEAST or not token.isascii() or not token.isprintable():
        expected = f"a file with {_LETTERS_LEAST} letters or more, as of `openssl rand -hex 16`"
        raise SettingsError(key, name, expected)
    return token

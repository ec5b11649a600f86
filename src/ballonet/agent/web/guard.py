"""Who may ask the page for what: by host, origin, kind of content, and token.

A browser is made to send requests by any page that is open in it.  So a name that is not this
server's (DNS rebinding) is refused; what changes something needs a token that no other page knows,
in a header that no other page can send; and a request that says that it comes from elsewhere is
refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

__all__ = ["Guard", "RefusedError", "is_loopback"]

_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_BEARER: Final = "Bearer "
_JSON: Final = "application/json"


class RefusedError(Exception):
    """A request that is not answered; `status` is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status: Final = status


def is_loopback(host: str) -> bool:
    """Nobody else's machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Guard:
    """Of one server."""

    host: str  #: where it listens
    port: int
    token: str  #: empty: nothing can be changed

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Where it listens on every address anything may be its name. Raises: RefusedError."""
        host = headers.get("Host", "")
        if not is_loopback(self.host):
            return
        if host.lower() not in {f"{name}:{self.port}" for name in (*_LOOPBACK_NAMES, self.host)}:
            raise RefusedError(421, "this is not the server of that name")

    def check_change(self, headers: Mapping[str, str]) -> None:
        """Of whoever wants to change something. Raises: RefusedError."""
        if not self.token:
            raise RefusedError(403, "nothing can be changed here: [web] has no token_file")
        origin, host = headers.get("Origin"), headers.get("Host", "")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise RefusedError(403, "another page has sent this")
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError(403, "another page has sent this")
        given = headers.get("Authorization", "")
        is_right = given.startswith(_BEARER) and hmac.compare_digest(
            given[len(_BEARER) :].strip().encode(), self.token.encode()
        )
        if not is_right:
            raise RefusedError(401, "the token is wrong, or missing")
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        if has_body and kind != _JSON:
            raise RefusedError(415, f"what is asked for is {_JSON}")

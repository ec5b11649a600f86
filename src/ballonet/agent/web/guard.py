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

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Raises: RefusedError."""
        self._check_host(headers.get("Host", ""))
        if method not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "there are GET, HEAD and POST")
        if method == "POST":
            self._check_change(headers)

    def _check_host(self, host: str) -> None:
        """Where it listens on every address, whoever has the token may have named it."""
        if not is_loopback(self.host):
            return
        if host.lower() not in {f"{name}:{self.port}" for name in (*_LOOPBACK_NAMES, self.host)}:
            raise RefusedError(421, "this is not the server of that name")

    def _check_change(self, headers: Mapping[str, str]) -> None:
        if not self.token:
            raise RefusedError(403, "nothing can be changed here: [web] has no token_file")
        origin, host = headers.get("Origin"), headers.get("Host", "")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise RefusedError(403, "another page has sent this")
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError(403, "another page has sent this")
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() != _JSON:
            raise RefusedError(415, f"what is asked for is {_JSON}")
        given = headers.get("Authorization", "")
        is_right = given.startswith(_BEARER) and hmac.compare_digest(
            given[len(_BEARER) :].strip().encode(), self.token.encode()
        )
        if not is_right:
            raise RefusedError(401, "the token is wrong, or missing")

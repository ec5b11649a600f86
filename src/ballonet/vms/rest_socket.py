"""HTTP with a server at a Unix socket, as VMMs with a REST API have it, a connection a request.

Every wait is bounded, and so is what is read: whoever answers may answer anything, slowly.
Units: seconds, bytes.
Source: RFC 9112; both servers are made of the same Rust library, which knows Content-Length only.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from ballonet.errors import CommandRefusedError, MonitorError
from ballonet.vms.reply import printable

__all__ = ["RestSocket"]

#: For one request, from the connection to the end of its answer.
_ANSWER_S: Final = 10.0
_AGAIN_S: Final = 0.05
#: A configuration with all its devices has a few ten KiB.
_ANSWER_BYTES_MAX: Final = 4 << 20
_HEAD_BYTES_MAX: Final = 64 << 10
_WORDS_MAX: Final = 300


class RestSocket:
    """Requests, one after another or at once."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path: Final = path
        self._prefix = prefix

    async def get(self, what: str) -> Any:  # noqa: ANN401 - JSON
        """Raises: MonitorError; CommandRefusedError with the status, if it is none of success."""
        return await self._request("GET", what, None)

    async def put(self, what: str, body: object) -> Any:  # noqa: ANN401
        """The same."""
        return await self._request("PUT", what, body)

    async def patch(self, what: str, body: object) -> Any:  # noqa: ANN401
        """The same."""
        return await self._request("PATCH", what, body)

    async def _request(self, method: str, what: str, body: object) -> Any:  # noqa: ANN401
        name = f"{method} {self._prefix}{what}"
        try:
            async with asyncio.timeout(_ANSWER_S):
                status, answer = await self._exchange(name, body)
        except TimeoutError:
            raise MonitorError(
                f"the VMM at {self.path} has not answered {name} within {_ANSWER_S:.0f} s"
            ) from None
        except OSError as error:
            raise MonitorError(
                f"no VMM answers at {self.path}: {error.strerror or error}"
            ) from error
        except (EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise MonitorError(
                f"the VMM at {self.path} makes no sense in answer to {name}"
            ) from error
        if not 200 <= status < 300:
            raise CommandRefusedError(name, str(status), _words(answer) or f"status {status}")
        return answer

    async def _exchange(self, name: str, body: object) -> tuple[int, Any]:
        """Raises: OSError, EOFError, ValueError, LimitOverrunError."""
        reader, writer = await self._connect()
        try:
            writer.write(_request_bytes(name, body))
            await writer.drain()
            status, length = _parse_head(await reader.readuntil(b"\r\n\r\n"))
            raw = await reader.readexactly(length) if length else b""
        finally:
            writer.close()
        try:
            return status, json.loads(raw) if raw else None
        except (ValueError, RecursionError) as error:
            if 200 <= status < 300:
                raise ValueError("no JSON") from error
            return status, raw.decode(errors="replace")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises: OSError; not where others wait before us, who are served first."""
        while True:
            try:
                return await asyncio.open_unix_connection(str(self.path), limit=_HEAD_BYTES_MAX)
            except BlockingIOError:
                await asyncio.sleep(_AGAIN_S)


def _request_bytes(name: str, body: object) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{name} HTTP/1.1", "Host: localhost", "Accept: application/json", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def _parse_head(head: bytes) -> tuple[int, int]:
    """Status and length of what follows. Raises: ValueError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError("not HTTP")
    headers = {name.strip().lower(): value.strip() for name, _, value in _fields(lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _ANSWER_BYTES_MAX:
        raise ValueError("too long")
    return int(rest[:3]), length


def _fields(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in lines if line]


def _words(answer: object) -> str:
    """Why something was refused, in the words of either VMM."""
    if isinstance(answer, dict):
        answer = answer.get("fault_message") or answer.get("error") or json.dumps(answer)
    if isinstance(answer, list):
        answer = ": ".join(str(one) for one in answer)
    return printable(str(answer or ""))[:_WORDS_MAX]

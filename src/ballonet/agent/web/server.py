"""The page and its JSON interface over HTTP, on the agent's loop.

Whoever can connect may be slow, many, or a page of somebody else's in a browser of ours: requests
are small and few at a time, streams are bounded, old connections that say nothing make room for new
ones, and `guard` says who may ask for what.  Nothing is loaded from anywhere else.
Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any, Final

import msgspec
from aiohttp import web

from ballonet.agent.round import Round
from ballonet.agent.web.guard import Guard, RefusedError
from ballonet.agent.web.routes import ROUTES, Fault, Offer, Route, description, parse_body
from ballonet.agent.web.web_state import WebState
from ballonet.errors import ListenError

__all__ = ["WebServer"]

#: Of what a request says; the longest is a size.
_BODY_BYTES: Final = 4 << 10
#: Open at a time, of which so many may be streams.
_CONNECTIONS_MOST: Final = 256
_STREAMS_MOST: Final = 64
#: A connection that has asked for nothing for so long is closed when room is wanted.
_IDLE_S: Final = 10.0
_KEEPALIVE_S: Final = 15.0
#: A stream that says nothing is taken for dead by what stands in between.
_HEARTBEAT_S: Final = 15.0
#: Unsent bytes of a stream, after which its reader is slow.
_UNSENT_BYTES: Final = 64 << 10
_END_S: Final = 1.0
_STATIC: Final[Mapping[str, tuple[str, str]]] = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uplot.js": ("uPlot.iife.min.js", "text/javascript"),
    "/uplot.css": ("uPlot.min.css", "text/css"),
    "/uplot-licence": ("uPlot-LICENSE", "text/plain"),
}
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class WebServer:
    """`begin` it once, on a running loop, and `close` it at the end."""

    def __init__(self, state: WebState, host: str, port: int, token: str) -> None:
        self._state, self._host, self._port, self._token = state, host, port, token
        self._guard: Guard
        self._streams: dict[web.RequestHandler, asyncio.Task[Any]] = {}
        self._born_s: dict[web.RequestHandler, float] = {}  # connections, since when
        self._files = {path: _read(name) for path, (name, _) in _STATIC.items()}
        self._description = msgspec.json.encode(description())
        self._server: asyncio.Server | None = None
        self._runner = web.AppRunner(
            self._made_app(),
            access_log=None,
            keepalive_timeout=_KEEPALIVE_S,
            shutdown_timeout=_END_S,
            handler_cancellation=True,
        )

    def take(self, one: Round) -> None:
        """The newest round."""
        self._state.take(one)

    @property
    def url(self) -> str:
        """Where people open it."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{name}:{self._guard.port}/"

    async def begin(self) -> None:
        """Serve from now on. Raises: ListenError."""
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._made_protocol, self._host, self._port
            )
        except OSError as error:
            await self._runner.cleanup()
            where = f"{self._host}:{self._port}"
            raise ListenError("listening at", where, error.strerror or str(error)) from error
        port = self._server.sockets[0].getsockname()[1]
        self._guard = Guard(self._host, port, self._token)

    async def close(self) -> None:
        """Serve no more; within a second."""
        if self._server is not None:
            self._server.close()
        for task in self._streams.values():
            task.cancel()
        await self._state.actions.close()
        await self._runner.cleanup()

    def _made_protocol(self) -> asyncio.BaseProtocol:
        """For a new connection; where there is no room, the oldest that is no stream makes it."""
        server = self._runner.server
        assert server is not None  # noqa: S101 - it was set up
        now_s = asyncio.get_running_loop().time()
        open_now = set(server.connections)
        self._born_s = {one: at_s for one, at_s in self._born_s.items() if one in open_now}
        if len(open_now) >= _CONNECTIONS_MOST:
            idle = self._born_s.keys() - self._streams.keys()
            oldest = min(idle, key=lambda one: self._born_s[one], default=None)
            if oldest is None or now_s - self._born_s[oldest] < _IDLE_S:
                return _HangUp()
            oldest.force_close()
        handler = server()
        self._born_s[handler] = now_s
        return handler

    def _made_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=_BODY_BYTES)
        for path in _STATIC:
            app.router.add_get(path, self._file)
        app.router.add_get("/events", self._events)
        app.router.add_get("/api/openapi.json", self._described)
        for route in ROUTES:
            app.router.add_route(route.method, route.path, partial(self._answer, route))
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401
        try:
            self._guard.check_host(request.headers)
            if request.match_info.http_exception is not None:  # no such path, or method
                raise request.match_info.http_exception
            if request.method not in ("GET", "HEAD"):
                self._guard.check_change(request.headers)
            response: web.StreamResponse = await handler(request)
        except RefusedError as error:
            response = _fault(error.status, str(error))
        except web.HTTPException as error:
            response = _fault(error.status, error.reason, error.headers.get("Allow", ""))
        for name, value in _HEADERS.items():
            if not response.prepared:
                response.headers[name] = value
        return response

    async def _file(self, request: web.Request) -> web.Response:
        _, kind = _STATIC[request.path]
        return web.Response(body=self._files[request.path], content_type=kind, charset="utf-8")

    async def _described(self, _: web.Request) -> web.Response:
        return _json(self._description)

    async def _answer(self, route: Route, request: web.Request) -> web.Response:
        body = parse_body(route, await request.read())
        vm = request.match_info.get("vm", "")
        offer = Offer(self._state, _who(request), vm, request.query, body)
        return _json(msgspec.json.encode(route.run(offer)))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Every round, as it comes, for as long as somebody reads."""
        if len(self._streams) >= _STREAMS_MOST:
            raise RefusedError(503, "too many look at this page already")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler is a task
        self._streams[request.protocol] = task
        try:
            return await self._stream(request)
        finally:
            del self._streams[request.protocol]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        feed, number = self._state.feed, 0
        with suppress(ConnectionError):
            while True:
                newest = await feed.next_after(number, _HEARTBEAT_S)
                if newest == number:
                    await response.write(b": still here\n\n")
                else:
                    number = newest
                    await response.write(b"data: " + feed.newest + b"\n\n")
        return response


class _HangUp(asyncio.Protocol):
    """There is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _read(name: str) -> bytes:
    return (files("ballonet.agent.web") / "static" / name).read_bytes()


def _json(data: bytes, status: int = 200) -> web.Response:
    return web.Response(body=data, status=status, content_type="application/json")


def _fault(status: int, why: str, allowed: str = "") -> web.Response:
    """`allowed`: methods, where it is the method that is wrong."""
    response = _json(msgspec.json.encode(Fault(why)), status)
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _who(request: web.Request) -> str:
    return str(request.remote or "unknown")

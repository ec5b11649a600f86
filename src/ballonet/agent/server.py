"""Metrics over HTTP, by the official client's WSGI application, and whether the agent is well.

Whoever can connect may be slow or many: each has a thread for a bounded time, and those beyond a
number are hung up on.
Units: seconds.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from ballonet.agent.configuration import listen_address
from ballonet.errors import ListenError

__all__ = ["MetricsServer"]

#: For a request; a scraper sends it at once.
_REQUEST_S: Final = 10.0
#: Scrapers at a time.
_AT_ONCE: Final = 32
_END_S: Final = 0.1
_TEXT: Final = [("Content-Type", "text/plain; charset=utf-8")]
_log = logging.getLogger(__name__)


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - its signature
        _log.debug(format, *args)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._room = BoundedSemaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server what this address is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        _log.debug("a client of the metrics has left", exc_info=True)


class MetricsServer:
    """Listens from when it is made; `begin` it once, and `close` it after that."""

    def __init__(
        self, listen: str, registry: CollectorRegistry, is_well: Callable[[], bool]
    ) -> None:
        """Raises: ListenError."""
        host, port = listen_address(listen)
        self._is_well = is_well
        self._metrics: WSGIApplication = make_wsgi_app(registry, disable_compression=True)
        try:
            (family, *_, address), *_ = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            self._server = _Server((str(address[0]), int(address[1])), family)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError("listening at", listen, reason) from error
        self._server.set_app(self._answer)
        name = f"[{host}]" if ":" in host else host
        self.url: Final = f"http://{name}:{self._server.server_port}/metrics"

    def begin(self) -> None:
        """Serve from now on."""
        Thread(target=self._server.serve_forever, args=(_END_S,), daemon=True).start()

    def close(self) -> None:
        """Take no more requests; those that are being answered end by themselves."""
        self._server.shutdown()
        self._server.socket.close()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [*_TEXT, ("Allow", "GET, HEAD")])
            return [b"only GET and HEAD\n"]
        if path == "/metrics":
            # The plain text takes the client half the time of OpenMetrics, and says the same.
            return self._metrics({**environ, "HTTP_ACCEPT": "text/plain"}, start)
        if path == "/healthz":
            well = self._is_well()
            start("200 OK" if well else "503 Service Unavailable", list(_TEXT))
            return [b"rounds are made\n" if well else b"no round is made\n"]
        start("404 Not Found", list(_TEXT))
        return [b"there are /metrics and /healthz\n"]

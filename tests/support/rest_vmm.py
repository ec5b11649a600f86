"""A program that serves Firecracker's or Cloud Hypervisor's API in front of a balloon of ours.

No answer is made up: each is of a device in this process, whose guest is a real one that somebody
starts.  Shapes and rules are those of the published descriptions; `rest_api_facts.py` has them.

    firecracker --api-sock PATH --id NAME --balloon SOCKET [--interval N] [--log FILE]
    cloud-hypervisor --api-socket path=PATH --balloon SOCKET [--log FILE]
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Event, Thread
from typing import Any, ClassVar, Final

from ballonet.control.device_control import DeviceControl, controlling
from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.vhost_user.listener import listening_socket

_MIB: Final = 1 << 20
_PAGES_PER_MIB: Final = 256
_STATISTICS: Final = {
    "swap_in": "swap_in",
    "swap_out": "swap_out",
    "majflt": "major_faults",
    "minflt": "minor_faults",
    "memfree": "free_memory",
    "memtot": "total_memory",
    "avail": "available_memory",
    "caches": "disk_caches",
    "htlb_pgalloc": "hugetlb_allocations",
    "htlb_pgfail": "hugetlb_failures",
    "oom_kill": "oom_kill",
    "alloc_stall": "alloc_stall",
    "async_scan": "async_scan",
    "direct_scan": "direct_scan",
    "async_reclaim": "async_reclaim",
    "direct_reclaim": "direct_reclaim",
}

Answer = tuple[int, object]


class FirecrackerApi:
    """GET, PATCH and what comes of them."""

    def __init__(self, device: DeviceControl, name: str, interval_s: int) -> None:
        self._device, self._name, self._interval_s = device, name, interval_s
        self.state = "Running"
        if interval_s:
            device.stats.set_poll_interval(interval_s).result()

    def answer(self, method: str, path: str, body: Any) -> Answer:  # noqa: ANN401 - JSON
        status = self._device.status()
        match method, path:
            case "GET", "/":
                return 200, {
                    "app_name": "Firecracker",
                    "id": self._name,
                    "state": self.state,
                    "vmm_version": "1.13.1",
                }
            case "GET", "/machine-config":
                return 200, {"vcpu_count": 1, "mem_size_mib": status.guest_bytes // _MIB}
            case "GET", "/balloon":
                return 200, {
                    "amount_mib": status.target_pages // _PAGES_PER_MIB,
                    "deflate_on_oom": "DEFLATE_ON_OOM" in status.features,
                    "stats_polling_interval_s": self._interval_s,
                }
            case "PATCH", "/balloon":
                return self._resize(body["amount_mib"], status)
            case "GET", "/balloon/statistics":
                return self._statistics(status)
            case "PATCH", "/balloon/statistics":
                return self._set_interval(body["stats_polling_interval_s"])
        return _fault(f"Invalid request method and/or path: {method} {path}.")

    def _resize(self, amount_mib: int, status: Status) -> Answer:
        if amount_mib * _MIB > status.guest_bytes:
            return _fault("Requested memory should not exceed the size of the guest's")
        self._device.set_target(amount_mib * _PAGES_PER_MIB)
        return 204, None

    def _statistics(self, status: Status) -> Answer:
        if not self._interval_s:
            return _fault("Statistics are not enabled")
        values = {} if status.sample is None else status.sample.values
        return 200, {
            "target_pages": status.target_pages,
            "actual_pages": status.actual_pages,
            "target_mib": status.target_pages // _PAGES_PER_MIB,
            "actual_mib": status.actual_pages // _PAGES_PER_MIB,
            **{_STATISTICS[name]: value for name, value in values.items()},
        }

    def _set_interval(self, interval_s: int) -> Answer:
        if interval_s == self._interval_s:
            return 204, None
        if not interval_s or not self._interval_s:
            return _fault("Cannot enable/disable the statistics after boot")
        self._device.stats.request()
        self._device.stats.set_poll_interval(interval_s)
        self._interval_s = interval_s
        return 204, None


class CloudHypervisorApi:
    """GET, PUT and what comes of them; below /api/v1."""

    def __init__(self, device: DeviceControl) -> None:
        self._device = device
        self.state = "Running"

    def answer(self, method: str, path: str, body: Any) -> Answer:  # noqa: ANN401 - JSON
        status = self._device.status()
        match method, path:
            case "GET", "/api/v1/vm.info":
                return 200, {
                    "config": {
                        "payload": {},
                        "memory": {"size": status.guest_bytes, "hotplug_method": "Acpi"},
                        "balloon": {"size": status.target_pages << 12, "deflate_on_oom": False},
                    },
                    "state": self.state,
                    "memory_actual_size": status.guest_bytes - (status.actual_pages << 12),
                }
            case "PUT", "/api/v1/vm.resize":
                size = body["desired_balloon"]
                if size > status.guest_bytes:
                    return 500, ["The balloon would be bigger than the memory"]
                self._device.set_target(size >> 12)
                return 204, None
        return 404, ["Not found"]


def _fault(text: str) -> Answer:
    return 400, {"fault_message": text}


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    """Has the API answer, and keeps what was said in the log."""

    protocol_version = "HTTP/1.1"
    api: ClassVar[FirecrackerApi | CloudHypervisorApi]
    log: ClassVar[Path | None] = None

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else None
        status, answer = self.api.answer(self.command, self.path, body)
        if self.log is not None:
            with self.log.open("a") as file:
                said = {"method": self.command, "path": self.path, "body": body}
                file.write(json.dumps(said | {"status": status, "answer": answer}) + "\n")
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_PATCH = _serve  # noqa: N815 - the library's names

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's name
        """Nothing on stderr."""


@contextmanager
def _serving(arguments: argparse.Namespace) -> Iterator[None]:
    with (
        listening_socket(arguments.balloon) as sock,
        controlling(BalloonSettings(), sock) as device,
    ):
        path = arguments.api_sock or arguments.api_socket.removeprefix("path=")
        api: FirecrackerApi | CloudHypervisorApi = CloudHypervisorApi(device)
        if arguments.api_sock:
            api = FirecrackerApi(device, arguments.id, arguments.interval)
        _Handler.api, _Handler.log = api, arguments.log
        with _Server(path, _Handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--api-sock")
    parser.add_argument("--api-socket")
    parser.add_argument("--id", default="anonymous-instance")
    parser.add_argument("--balloon", type=Path, required=True)
    parser.add_argument("--interval", type=int, default=0)
    parser.add_argument("--log", type=Path)
    ended = Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with _serving(parser.parse_args()):
        ended.wait()


if __name__ == "__main__":
    main()

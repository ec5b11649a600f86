"""What the supervisor does once so that its workers need not: use a device as a VMM does.

The interpreter rewrites code that it has run a few times, and makes many things when they are first
needed.  Done before the workers are forked, the memory for it is shared; else each worker would
have a megabyte of its own for it.  The guest is a few pages of ours, which are gone afterwards.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Final

from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import BallonetError
from ballonet.host.worker_status import pack_status
from ballonet.memory.fence import full_fence
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import EventLoop
from ballonet.vhost_user.frontend import FrontEnd, SharedRegion
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import make_server, serving
from ballonet.virtio.features import BALLOON_FEATURES, Feature
from ballonet.virtio.queues import QueueLayout, queue_roles
from ballonet.virtio.ring.split_driver import SplitDriverRing, split_place

__all__ = ["warm_up"]

#: After so many calls the interpreter adapts a function; more gain little, and take time.
_ROUNDS: Final = 8
_BYTES: Final = 1 << 20
_UVA: Final = 1 << 40
_RING_BYTES: Final = 16 << 10
_MESSAGE_AT: Final = 512 << 10
_GIVEN: Final = b"".join(pfn.to_bytes(4, "little") for pfn in range(192, 256))
_INFLATE, _DEFLATE = 0, 1
_ANSWER_S: Final = 1.0


def warm_up(settings: BalloonSettings, directory: Path) -> None:
    """Serve a guest of our own for a moment, again and again; what fails will fail later, too.

    On a thread that ends, so that nothing a thread keeps for itself is left to the workers.
    """
    thread = Thread(target=_serve_moments, args=(settings, directory))
    thread.start()
    thread.join()


def _serve_moments(settings: BalloonSettings, directory: Path) -> None:
    socket_path, state_path = directory / "host.sock", directory / "host.state"
    logging.disable(logging.WARNING)  # nobody wants to hear of this guest
    try:
        with suppress(BallonetError, OSError):
            for _ in range(_ROUNDS):
                _serve_a_moment(settings, socket_path, state_path)
            state_path.unlink(missing_ok=True)
    finally:
        logging.disable(logging.NOTSET)


def _serve_a_moment(settings: BalloonSettings, socket_path: Path, state_path: Path) -> None:
    """Raises: BallonetError."""
    with ExitStack() as stack:
        sock = stack.enter_context(listening_socket(socket_path))
        memory = stack.enter_context(SharedFile("ballonet-warm-up", _BYTES))
        server = make_server(settings, sock, listening=True, state_path=state_path)
        control = DeviceControl(server)
        stack.enter_context(serving(server))
        loop = EventLoop()
        stack.callback(loop.close)
        region = SharedRegion(Region(0, _BYTES, _UVA, 0), memory.fd)
        front_end = FrontEnd(
            loop, socket_path, [region], called=lambda _: None, config_changed=lambda: None
        )
        stack.callback(front_end.close)
        front_end.connect()
        _give_pages(front_end, _Guest(memory), loop)
        pack_status(control.status())


class _Guest:
    """Where rings lie; a `GuestView`."""

    def __init__(self, memory: SharedFile) -> None:
        self._memory = memory
        memory.view[_MESSAGE_AT : _MESSAGE_AT + len(_GIVEN)] = _GIVEN

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on memory."""
        return self._memory.view[gpa : gpa + length]


def _give_pages(front_end: FrontEnd, guest: _Guest, loop: EventLoop) -> None:
    """Start the rings, and send one message on the inflate and the deflate queue."""
    wanted = BALLOON_FEATURES | Feature.VERSION_1 | Feature.EVENT_IDX
    features = front_end.offered() & wanted
    front_end.accept(features)
    rings: dict[int, SplitDriverRing] = {}
    for queue, role in enumerate(queue_roles(Feature(features), QueueLayout.DENSE)):
        if role is not None:
            place = split_place(queue * _RING_BYTES, front_end.queue_size(queue))
            size, event_idx = front_end.queue_size(queue), bool(features & Feature.EVENT_IDX)
            rings[queue] = SplitDriverRing(guest, place, size, full_fence, event_idx=event_idx)
            front_end.set_queue(queue, rings[queue])
    front_end.driver_ok()
    for queue in (_INFLATE, _DEFLATE):
        rings[queue].add([(_MESSAGE_AT, len(_GIVEN))])
        rings[queue].publish()
        front_end.kick(queue)
        while not rings[queue].collect() and loop.turn(_ANSWER_S):
            pass
    for ring in rings.values():
        ring.release()

"""How each front-end starts and stops, message by message.

Part of the test peer, which shares no code with the package under test.  Each `start_*` returns a
session whose driver has reached DRIVER_OK; where the start fails everything is closed again.
Source: Cloud Hypervisor generic_vhost_user.rs and vu_common_ctrl.rs; crosvm
vhost_user_frontend/mod.rs; for User-Mode Linux and QEMU our notes on virtio_uml.c, vhost.c,
vhost-user.c and vhost-user-base.c.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.front_end import FrontEnd
from tests.support.guest_memory import MIB, GuestRam, RamRegion
from tests.support.session import (
    DEFLATE,
    INFLATE,
    QUEUES,
    WHOLE_BYTES,
    ConfigStyle,
    Served,
    Session,
    table_of,
    wire_region,
)
from tests.support.wire import (
    PROTOCOL_BACKEND_REQ,
    PROTOCOL_CONFIG,
    PROTOCOL_DEVICE_STATE,
    PROTOCOL_LOG_SHMFD,
    PROTOCOL_MEM_SLOTS,
    PROTOCOL_MQ,
    PROTOCOL_REPLY_ACK,
    PROTOCOL_RESET_DEVICE,
    PROTOCOL_STATUS,
)

Where = Path | socket.socket | Served

MUST_TELL_HOST: Final = 1 << 0
STATS_VQ: Final = 1 << 1
FREE_PAGE_HINT: Final = 1 << 3
PAGE_POISON: Final = 1 << 4
PAGE_REPORTING: Final = 1 << 5
INDIRECT_DESC: Final = 1 << 28
EVENT_IDX: Final = 1 << 29
PROTOCOL_FEATURES: Final = 1 << 30
VERSION_1: Final = 1 << 32
RING_PACKED: Final = 1 << 34
IN_ORDER: Final = 1 << 35
EVERYTHING: Final = (1 << 64) - 1

#: Where QEMU lets a packed ring begin: both places at slot 0, both wrap counters 1.
PACKED_START: Final = 0x8000_8000

DRIVER_BITS: Final = MUST_TELL_HOST | STATS_VQ | INDIRECT_DESC | EVENT_IDX | VERSION_1
#: What a driver with all five queues accepts.
FIVE_QUEUES: Final = DRIVER_BITS | FREE_PAGE_HINT | PAGE_REPORTING
_TRANSPORT_BITS: Final = ((1 << 41) - 1) ^ ((1 << 28) - 1) ^ PROTOCOL_FEATURES  # 28 to 40 less 30
_UML_PROTOCOL: Final = PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_BACKEND_REQ | PROTOCOL_CONFIG
_CH_PROTOCOL: Final = _UML_PROTOCOL | PROTOCOL_LOG_SHMFD | PROTOCOL_MEM_SLOTS
_QEMU_PROTOCOL: Final = (
    _CH_PROTOCOL | PROTOCOL_RESET_DEVICE | PROTOCOL_STATUS | PROTOCOL_DEVICE_STATE
)
_LIVE_STATUS: Final = 0x0F  # ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK


def uml_ram() -> GuestRam:
    """One region behind the kernel image; user addresses are guest-physical ones."""
    start = 6 * MIB
    return GuestRam([RamRegion(start, 16 * MIB, uva=start, file_offset=start)])


def qemu_ram() -> GuestRam:
    """A PC: one memfd in three regions, a hole for video memory and one below 4 GiB."""
    uva, high = 0x7F12_3400_0000, 12 * MIB
    return GuestRam(
        [
            RamRegion(0, 0xA_0000, uva, 0),
            RamRegion(0x10_0000, high - 0x10_0000, uva + 0x10_0000, 0x10_0000),
            RamRegion(1 << 32, 4 * MIB, uva + high, high),
        ]
    )


def cloud_hypervisor_ram() -> GuestRam:
    """Two regions, each a file of its own, user addresses in the opposite order."""
    return GuestRam(
        [
            RamRegion(0, 8 * MIB, 0x7F80_0000_0000, file=0),
            RamRegion(1 << 32, 8 * MIB, 0x7F00_0000_0000, file=1),
        ]
    )


def crosvm_ram() -> GuestRam:
    """One memfd in two regions."""
    return GuestRam(
        [
            RamRegion(0, 8 * MIB, 0x7E00_0000_0000, 0),
            RamRegion(1 << 32, 8 * MIB, 0x7E00_0100_0000, 8 * MIB),
        ]
    )


def start_uml(
    where: Where,
    *,
    ram: GuestRam | None = None,
    wanted: int = DRIVER_BITS,
    queue_size: int = 256,
    table_room: int = 1,
    accepts_bit_30: bool = True,
) -> Session:
    """User-Mode Linux: probe of the transport, then bind of the driver.

    `table_room` is the number of regions SET_MEM_TABLE has space for, filled or not.  Linux 6.1
    does not accept bit 30 with its driver's features, so it never enables or disables a ring.
    """
    session = _session(where, ram or uml_ram(), ConfigStyle(), queue_size)
    session.accepts_bit_30 = accepts_bit_30
    front_end = session.front_end
    with _closed_on_error(session):
        front_end.set_owner()
        session.offered = front_end.get_features()
        session.protocol = front_end.get_protocol_features() & _UML_PROTOCOL
        front_end.wire.asks_acks = bool(session.protocol & PROTOCOL_REPLY_ACK)
        front_end.set_protocol_features(session.protocol)
        if session.protocol & PROTOCOL_BACKEND_REQ:
            front_end.set_backend_req_fd()
        if session.protocol & PROTOCOL_MQ:
            _check(front_end.get_queue_num() >= QUEUES, "UML wants as many queues as slots")
        bind_uml(session, wanted, table_room=table_room)
    return session


def bind_uml(session: Session, wanted: int = DRIVER_BITS, *, table_room: int = 1) -> None:
    """What UML sends when a driver is bound to the device, for the first time or again."""
    front_end = session.front_end
    _accept(session, wanted)
    session.read_num_pages()
    regions, fds = table_of(session.ram)
    front_end.set_mem_table(regions, fds, room=table_room)
    live = _live_queues(session)
    for queue in live:
        front_end.set_vring_call(queue, is_socket=True)
        _describe_new_ring(session, queue, base=0)  # even if packed rings begin elsewhere
    for queue in live:
        front_end.set_vring_kick(queue)
        if session.accepts_bit_30:
            front_end.set_vring_enable(queue, 1)


def unbind_uml(session: Session) -> None:
    """What UML sends when the driver leaves: the back-end is not told of the reset."""
    for queue in sorted(session.rings, reverse=True) if session.accepts_bit_30 else ():
        session.front_end.set_vring_enable(queue, 0)
    session.front_end.get_features()


def start_qemu(
    where: Where,
    *,
    ram: GuestRam | None = None,
    wanted: int = DRIVER_BITS,
    queue_size: int = 128,
    protocol: int = _QEMU_PROTOCOL,
) -> Session:
    """QEMU's generic vhost-user device: initialisation, realise, then DRIVER_OK."""
    style = ConfigStyle(is_whole=True)
    session = _session(where, ram or qemu_ram(), style, queue_size)
    with _closed_on_error(session):
        _greet_like_qemu(session, protocol)
        run_qemu(session, wanted)
    return session


def reconnect_qemu(
    where: Path, session: Session, wanted: int = DRIVER_BITS, *, protocol: int = _QEMU_PROTOCOL
) -> None:
    """The connection was lost and is made again; the guest's driver has not noticed.

    Rings go on at what the device has used [QEMU virtio_queue_restore_last_avail_idx].
    """
    greet_again(where, session, protocol=protocol)
    bases = {queue: session.split_ring(queue).used_idx for queue in session.rings}
    run_qemu(session, wanted, bases=bases)


def greet_again(where: Path, session: Session, *, protocol: int = _QEMU_PROTOCOL) -> None:
    """A guest that is there already is connected, to this device or another one; no ring runs."""
    session.front_end.close()
    session.front_end = FrontEnd.connect(where)
    _greet_like_qemu(session, protocol)


def _greet_like_qemu(session: Session, protocol: int) -> None:
    """What comes before a driver."""
    front_end = session.front_end
    front_end.get_features()
    session.protocol = front_end.get_protocol_features() & protocol
    front_end.set_protocol_features(session.protocol)
    if session.protocol & PROTOCOL_MQ:
        front_end.get_queue_num()
    if session.protocol & PROTOCOL_MEM_SLOTS:
        _check(front_end.get_max_mem_slots() >= len(session.ram.regions), "too few slots")
    if session.protocol & PROTOCOL_BACKEND_REQ:
        front_end.set_backend_req_fd()
    front_end.set_owner()
    session.offered = front_end.get_features()
    for queue in range(QUEUES):
        front_end.set_vring_call(queue)
        front_end.set_vring_err(queue)
    front_end.get_config(0, WHOLE_BYTES)


def run_qemu(
    session: Session, wanted: int = DRIVER_BITS, *, bases: Mapping[int, int] | None = None
) -> None:
    """DRIVER_OK in QEMU, or its VM goes on: then `bases` are what `stop_qemu` returned."""
    front_end = session.front_end
    _accept(session, wanted)
    _share_like_qemu(session)
    for queue in _live_queues(session):
        if bases is None:
            is_packed = session.driver_features & RING_PACKED
            _describe_new_ring(session, queue, base=PACKED_START if is_packed else 0)
        else:
            front_end.set_vring_num(queue, session.queue_size)
            front_end.set_vring_base(queue, bases[queue])
            front_end.set_vring_addr(queue, session.ring_uvas(queue), log=0)
        front_end.set_vring_kick(queue)
        front_end.set_vring_call(queue)
    for queue in range(QUEUES):
        front_end.set_vring_enable(queue, 1, ack=True)
    if session.protocol & PROTOCOL_STATUS:
        front_end.set_status(_LIVE_STATUS)


def stop_qemu(session: Session) -> dict[int, int]:
    """The VM stops: returns where each ring that had been set up would go on."""
    front_end = session.front_end
    for queue in range(QUEUES):
        front_end.set_vring_enable(queue, 0, ack=True)
    bases = {queue: front_end.get_vring_base(queue) for queue in sorted(session.rings)}
    if session.protocol & PROTOCOL_MEM_SLOTS:
        for region in reversed(session.ram.regions):
            front_end.rem_mem_reg(wire_region(region), [session.ram.fd(region)])
    return bases


def start_cloud_hypervisor(
    where: Where,
    *,
    ram: GuestRam | None = None,
    queue_sizes: Sequence[int] = (256,) * QUEUES,
    has_channel: bool = True,
) -> Session:
    """Cloud Hypervisor's generic device: no feature bit of the device itself gets through."""
    style = ConfigStyle(write_flags=1)
    session = _session(where, ram or cloud_hypervisor_ram(), style, queue_sizes[0])
    front_end = session.front_end
    front_end.wire.asks_acks_of_queries = True
    with _closed_on_error(session):
        front_end.set_owner()
        session.offered = front_end.get_features()
        protocol = _CH_PROTOCOL if has_channel else _CH_PROTOCOL & ~PROTOCOL_BACKEND_REQ
        session.protocol = front_end.get_protocol_features() & protocol
        front_end.set_protocol_features(session.protocol)
        front_end.wire.asks_acks = front_end.wire.has_reply_ack
        _check(front_end.get_queue_num() >= len(queue_sizes), "more queues than the back-end has")
        _check(bool(session.protocol & PROTOCOL_CONFIG), "without CONFIG it reads 0xFF")
        session.read_num_pages()
        _accept(session, _TRANSPORT_BITS & ~INDIRECT_DESC)
        regions, fds = table_of(session.ram)
        front_end.set_mem_table(regions, fds)
        for queue in (INFLATE, DEFLATE):
            front_end.set_vring_num(queue, queue_sizes[queue])
        for queue in (INFLATE, DEFLATE):
            _describe_like_rust_vmm(session, queue)
        for queue in (INFLATE, DEFLATE):
            front_end.set_vring_enable(queue, 1)
        if session.protocol & PROTOCOL_BACKEND_REQ:
            front_end.set_backend_req_fd()
    return session


def start_crosvm(
    where: Where, *, ram: GuestRam | None = None, wanted: int = DRIVER_BITS, queue_size: int = 128
) -> Session:
    """crosvm: no acknowledgements, features in two halves, configuration accesses in odd pieces."""
    style = ConfigStyle(read_flags=1, pieces=(1, 3))
    session = _session(where, ram or crosvm_ram(), style, queue_size)
    front_end = session.front_end
    passes = ((1 << 24) - 1) | INDIRECT_DESC | EVENT_IDX | VERSION_1
    with _closed_on_error(session):
        front_end.set_owner()
        session.offered = front_end.get_features()
        session.protocol = front_end.get_protocol_features() & _UML_PROTOCOL
        front_end.set_protocol_features(session.protocol)
        if session.protocol & PROTOCOL_BACKEND_REQ:
            front_end.set_backend_req_fd()
        if session.protocol & PROTOCOL_MQ:
            front_end.get_queue_num()
        session.read_num_pages()
        _accept(session, wanted & passes & 0xFFFF_FFFF)  # each half goes on as it is written
        _accept(session, wanted & passes)
        regions, fds = table_of(session.ram)
        front_end.set_mem_table(regions, fds)
        for queue in _live_queues(session):
            front_end.set_vring_num(queue, queue_size)
            _describe_like_rust_vmm(session, queue)
            front_end.set_vring_enable(queue, 1)
    return session


def _session(where: Where, ram: GuestRam, style: ConfigStyle, queue_size: int) -> Session:
    path = where if isinstance(where, Path | socket.socket) else where.path
    try:
        front_end = FrontEnd.connect(path) if isinstance(path, Path) else FrontEnd(path)
    except BaseException:
        ram.close()
        raise
    session = Session(front_end, ram, style, queue_size)
    if not isinstance(where, Path | socket.socket):
        session.rest = where.rest
    return session


@contextmanager
def _closed_on_error(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        session.close()
        raise


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _accept(session: Session, wanted: int) -> None:
    """The driver takes what it knows of the offer; vhost-user's own bit goes along."""
    session.driver_features = session.offered & wanted & ~PROTOCOL_FEATURES
    bit_30 = PROTOCOL_FEATURES if session.accepts_bit_30 else 0
    session.front_end.set_features(session.driver_features | bit_30)


def _live_queues(session: Session) -> range:
    """Queues are numbered without gaps, as Linux does."""
    optional = (STATS_VQ, FREE_PAGE_HINT, PAGE_REPORTING)
    return range(2 + sum(bool(session.driver_features & bit) for bit in optional))


def _make_ring(session: Session, queue: int) -> None:
    """A fresh ring of the format and kind the driver accepted."""
    accepted = session.driver_features
    session.make_ring(
        queue, event_idx=bool(accepted & EVENT_IDX), packed=bool(accepted & RING_PACKED)
    )


def _describe_new_ring(session: Session, queue: int, *, base: int) -> None:
    """A fresh ring, in the order of UML and QEMU: size, base, addresses."""
    _make_ring(session, queue)
    session.front_end.set_vring_num(queue, session.queue_size)
    session.front_end.set_vring_base(queue, base)
    session.front_end.set_vring_addr(queue, session.ring_uvas(queue))


def _describe_like_rust_vmm(session: Session, queue: int) -> None:
    """A fresh ring whose size was sent already: addresses, base, descriptors."""
    _make_ring(session, queue)
    session.front_end.set_vring_addr(queue, session.ring_uvas(queue))
    session.front_end.set_vring_base(queue, 0)
    session.front_end.set_vring_call(queue)
    session.front_end.set_vring_kick(queue)


def _share_like_qemu(session: Session) -> None:
    """One message for each region if slots were negotiated, else one for all."""
    if session.protocol & PROTOCOL_MEM_SLOTS:
        for region in session.ram.regions:
            session.front_end.add_mem_reg(wire_region(region), [session.ram.fd(region)])
        return
    regions, fds = table_of(session.ram)
    session.front_end.set_mem_table(regions, fds, ack=True)

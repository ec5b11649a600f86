"""vhost-user messages: numbers, layouts, and what each may carry.

    header  u32 request, u32 flags (version 1, reply 4, need_reply 8), u32 payload size
    payload by request, in host byte order; file descriptors travel with the header

Every rule that can be checked without state is a row of `RULES`.  Not here: sockets
(connection.py), what a message does (session.py).
Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple

from ballonet.errors import WireError
from ballonet.memory.regions import REGIONS_MAX, Region

__all__ = [
    "FDS_MAX",
    "HEADER",
    "LOG_ALL",
    "PAYLOAD_MAX",
    "PROTOCOL_FEATURES_BIT",
    "RULES",
    "U64",
    "BackendRequest",
    "ConfigAccess",
    "LogArea",
    "Message",
    "ProtocolFeature",
    "Request",
    "Rule",
    "VringAddresses",
    "VringFd",
    "VringState",
    "check_shape",
    "pack_mem_table",
    "pack_message",
    "pack_request",
    "parse_header",
    "parse_mem_table",
    "parse_single_region",
]

HEADER: Final = Struct("=III")
U64: Final = Struct("=Q")
#: The longest message is a memory table of 509 regions.
PAYLOAD_MAX: Final = 8 + 32 * REGIONS_MAX
#: A message carries at most one descriptor for each of eight regions.
FDS_MAX: Final = 8
#: Feature bits of vhost-user that share a word with virtio's.
PROTOCOL_FEATURES_BIT: Final = 1 << 30
LOG_ALL: Final = 1 << 26

_VERSION, _REPLY, _NEED_REPLY = 1, 4, 8
_CONFIG_HEADER: Final = Struct("=III")
_VRING_STATE: Final = Struct("=II")
_VRING_ADDRESSES: Final = Struct("=IIQQQQ")
_LOG_AREA: Final = Struct("=QQ")
_REGION: Final = Struct("=QQQQ")
_CONFIG_BYTES_MAX = 256
_SOURCE = "vhost-user.rst"


class Request(IntEnum):
    """Front-end to back-end; only what a balloon can meet."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class BackendRequest(IntEnum):
    """Back-end to front-end, on the channel of SET_BACKEND_REQ_FD."""

    CONFIG_CHANGE = 2


class ProtocolFeature(IntFlag):
    """vhost-user's own bits that this back-end knows."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    RESET_DEVICE = 1 << 13
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    DEVICE_STATE = 1 << 19


class Rule(NamedTuple):
    """What one request may look like."""

    payload_min: int
    payload_max: int
    fds_min: int = 0
    fds_max: int = 0
    needs: int = 0  #: bits of ProtocolFeature
    replies: bool = False  #: has an answer of its own, so no acknowledgement besides


def _exactly(size: int, **more: object) -> Rule:
    return Rule(size, size, **more)  # type: ignore[arg-type]


#: By request number.
RULES: Final[Mapping[int, Rule]] = {
    Request.GET_FEATURES: _exactly(0, replies=True),
    Request.SET_FEATURES: _exactly(8),
    Request.SET_OWNER: _exactly(0),
    Request.RESET_OWNER: _exactly(0),
    Request.SET_MEM_TABLE: Rule(8, 8 + 32 * FDS_MAX, fds_max=FDS_MAX),
    Request.SET_LOG_BASE: Rule(8, 16, 1, 1, int(ProtocolFeature.LOG_SHMFD), replies=True),
    Request.SET_LOG_FD: _exactly(0, fds_min=1, fds_max=1),
    Request.SET_VRING_NUM: _exactly(8),
    Request.SET_VRING_ADDR: _exactly(40),
    Request.SET_VRING_BASE: _exactly(8),
    Request.GET_VRING_BASE: _exactly(8, replies=True),
    Request.SET_VRING_KICK: _exactly(8, fds_max=1),
    Request.SET_VRING_CALL: _exactly(8, fds_max=1),
    Request.SET_VRING_ERR: _exactly(8, fds_max=1),
    Request.GET_PROTOCOL_FEATURES: _exactly(0, replies=True),
    Request.SET_PROTOCOL_FEATURES: _exactly(8),
    Request.GET_QUEUE_NUM: _exactly(0, needs=int(ProtocolFeature.MQ), replies=True),
    Request.SET_VRING_ENABLE: _exactly(8),
    Request.SET_BACKEND_REQ_FD: _exactly(
        0, fds_min=1, fds_max=1, needs=int(ProtocolFeature.BACKEND_REQ)
    ),
    Request.GET_CONFIG: Rule(
        13, 12 + _CONFIG_BYTES_MAX, needs=int(ProtocolFeature.CONFIG), replies=True
    ),
    Request.SET_CONFIG: Rule(13, 12 + _CONFIG_BYTES_MAX, needs=int(ProtocolFeature.CONFIG)),
    Request.RESET_DEVICE: _exactly(0, needs=int(ProtocolFeature.RESET_DEVICE)),
    Request.GET_MAX_MEM_SLOTS: _exactly(
        0, needs=int(ProtocolFeature.CONFIGURE_MEM_SLOTS), replies=True
    ),
    Request.ADD_MEM_REG: _exactly(
        40, fds_min=1, fds_max=1, needs=int(ProtocolFeature.CONFIGURE_MEM_SLOTS)
    ),
    # Some front-ends send the descriptor of a region they remove; it is closed unused.
    Request.REM_MEM_REG: _exactly(40, fds_max=1, needs=int(ProtocolFeature.CONFIGURE_MEM_SLOTS)),
    Request.SET_STATUS: _exactly(8, needs=int(ProtocolFeature.STATUS)),
    Request.GET_STATUS: _exactly(0, needs=int(ProtocolFeature.STATUS), replies=True),
    Request.SET_DEVICE_STATE_FD: _exactly(
        8, fds_min=1, fds_max=1, needs=int(ProtocolFeature.DEVICE_STATE), replies=True
    ),
    Request.CHECK_DEVICE_STATE: _exactly(0, needs=int(ProtocolFeature.DEVICE_STATE), replies=True),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message; `fds` are still open and belong to whoever received it."""

    code: int
    flags: int
    payload: bytes = b""
    fds: tuple[int, ...] = ()

    @property
    def need_reply(self) -> bool:
        """The front-end waits for an acknowledgement, if it may ask for one."""
        return bool(self.flags & _NEED_REPLY)

    @property
    def name(self) -> str:
        """For people: the request's name, or its number."""
        return Request(self.code).name if self.code in RULES else f"request {self.code}"

    def u64(self) -> int:
        """The payload of the many messages that carry one number."""
        return int(U64.unpack_from(self.payload)[0])


class VringState(NamedTuple):
    """A queue and a number about it."""

    queue: int
    num: int

    @classmethod
    def parse(cls, payload: bytes) -> VringState:
        """Read 8 bytes: u32 queue, u32 num."""
        return cls._make(_VRING_STATE.unpack(payload))

    def pack(self) -> bytes:
        """The same shape, as a reply."""
        return _VRING_STATE.pack(*self)


class VringAddresses(NamedTuple):
    """Where a ring lies, in the front-end's own addresses."""

    queue: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int

    @classmethod
    def parse(cls, payload: bytes) -> VringAddresses:
        """Read 40 bytes: u32 queue, u32 flags, then u64 desc, used, avail, log."""
        return cls._make(_VRING_ADDRESSES.unpack(payload))

    def pack(self) -> bytes:
        """The same shape, as a request."""
        return _VRING_ADDRESSES.pack(*self)


class VringFd(NamedTuple):
    """A queue whose descriptor comes along, or is taken away."""

    queue: int
    has_fd: bool

    @classmethod
    def parse(cls, message: Message) -> VringFd:
        """Read a u64: bits 0 to 7 the queue, bit 8 "no descriptor". Raises: WireError."""
        value = message.u64()
        has_fd = not value & 0x100
        if has_fd != bool(message.fds):
            raise WireError(message.name, len(message.fds), f"must carry {int(has_fd)} fd", _SOURCE)
        return cls(value & 0xFF, has_fd)


class ConfigAccess(NamedTuple):
    """A piece of the configuration space; the flags of front-ends cannot be trusted."""

    offset: int
    flags: int
    data: bytes

    @classmethod
    def parse(cls, payload: bytes) -> ConfigAccess:
        """Read u32 offset, u32 size, u32 flags, and `size` bytes. Raises: WireError."""
        offset, size, flags = _CONFIG_HEADER.unpack_from(payload)
        data = payload[_CONFIG_HEADER.size :]
        if size != len(data):
            raise WireError("config size", size, f"must be the {len(data)} bytes sent", _SOURCE)
        return cls(offset, flags, data)

    def pack(self) -> bytes:
        """The same shape, as a reply."""
        return _CONFIG_HEADER.pack(self.offset, len(self.data), self.flags) + self.data


class LogArea(NamedTuple):
    """Where the dirty log lies in its file, in bytes."""

    size: int
    offset: int

    @classmethod
    def parse(cls, payload: bytes) -> LogArea:
        """Read u64 size, u64 offset. Raises: WireError."""
        if len(payload) != 16:
            raise WireError("SET_LOG_BASE", f"{len(payload)} bytes", "must be 16", _SOURCE)
        return cls._make(_LOG_AREA.unpack(payload))

    def pack(self) -> bytes:
        """The same shape, as a request."""
        return _LOG_AREA.pack(*self)


def parse_header(raw: bytes | bytearray) -> tuple[int, int, int]:
    """Request, flags and payload size, of a message's first bytes. Raises: WireError."""
    request, flags, size = HEADER.unpack_from(raw)
    if flags & 3 != _VERSION or flags & ~(3 | _NEED_REPLY):
        raise WireError("flags", hex(flags), "must be version 1 and no reply", _SOURCE)
    if size > PAYLOAD_MAX:
        raise WireError("payload size", size, f"must be at most {PAYLOAD_MAX}", _SOURCE)
    return request, flags, size


def check_shape(message: Message) -> Rule:
    """The rule a message was held to. Raises: WireError."""
    rule = RULES.get(message.code)
    if rule is None:
        raise WireError("request", message.code, "is not served here", _SOURCE)
    _check_count(message, "payload bytes", len(message.payload), rule.payload_min, rule.payload_max)
    _check_count(message, "fds", len(message.fds), rule.fds_min, rule.fds_max)
    return rule


def pack_message(code: int, payload: bytes = b"", *, reply: bool) -> bytes:
    """A message of ours; a reply repeats the request's number and clears need_reply."""
    return HEADER.pack(code, _VERSION | (_REPLY if reply else 0), len(payload)) + payload


def pack_request(code: int, payload: bytes = b"", *, need_reply: bool = False) -> bytes:
    """A request of a front-end."""
    return HEADER.pack(code, _VERSION | (_NEED_REPLY if need_reply else 0), len(payload)) + payload


def pack_mem_table(regions: Sequence[Region]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    packed = [_REGION.pack(one.gpa, one.size, one.uva, one.file_offset) for one in regions]
    return _VRING_STATE.pack(len(regions), 0) + b"".join(packed)


def parse_mem_table(message: Message) -> list[Region]:
    """Regions of SET_MEM_TABLE, one descriptor each. Raises: WireError.

    User-Mode Linux always sends room for two regions; what is beyond the count is ignored.
    """
    count = int.from_bytes(message.payload[:4], sys.byteorder)
    if count != len(message.fds) or len(message.payload) < 8 + 32 * count:
        got = f"{count} regions, {len(message.payload)} bytes, {len(message.fds)} fds"
        raise WireError("SET_MEM_TABLE", got, "must agree", _SOURCE)
    return [_parse_region(message.payload, 8 + 32 * i) for i in range(count)]


def parse_single_region(message: Message) -> Region:
    """The region of ADD_MEM_REG or REM_MEM_REG."""
    return _parse_region(message.payload, 8)


def _parse_region(payload: bytes, offset: int) -> Region:
    gpa, size, uva, file_offset = _REGION.unpack_from(payload, offset)
    return Region(gpa, size, uva, file_offset)


def _check_count(message: Message, what: str, got: int, least: int, most: int) -> None:
    if not least <= got <= most:
        allowed = str(least) if least == most else f"{least} to {most}"
        raise WireError(f"{message.name} {what}", got, f"must be {allowed}", _SOURCE)

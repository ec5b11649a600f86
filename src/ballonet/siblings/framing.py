"""What a host of ours and our embedded guest say to each other over a socket, as bytes.

Neither sibling of virtio's balloon has a wire of its own between two programs: VMware's driver
executes an instruction, Hyper-V's has a ring of VMBus.  So there is one of ours, and only what
belongs to the protocols themselves is theirs.

    frame    u32 bytes of the body, u32 kind, body; all numbers little-endian
    HELLO    the guest's first: 8 bytes "ballonet", u32 version, u32 regions, 8 bytes of the
             protocol's name padded with zeros; then for each region u64 gpa, size, offset in its
             file.  The files come with it, one descriptor for each region, in their order.
    WELCOME  the host's answer; nothing of an earlier guest is known to it any more
    REFUSAL  its other answer: why, as text
    CALL     VMware: u32 command, u64 arg1, u64 arg2; one at a time, each has an
    ANSWER   u32 status, u64 result
    DOORBELL VMware, the host's: u64 context, u64 resource
    MESSAGE  Hyper-V: a message of Dynamic Memory, either way

Not here: sockets and descriptors (link.py), what is in a message (hyperv) or a call (vmware).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, Self

from ballonet.errors import WireError
from ballonet.hyperv.layouts import MESSAGE_BYTES_MAX
from ballonet.memory.regions import Region

__all__ = [
    "ANSWER",
    "CALL",
    "DOORBELL",
    "REGIONS_MAX",
    "Frame",
    "FrameKind",
    "Framer",
    "Hello",
    "pack_frame",
]

#: One descriptor for each; as many as a vhost-user memory table has.
REGIONS_MAX: Final = 8
CALL: Final = Struct("<IQQ")
ANSWER: Final = Struct("<IQ")
DOORBELL: Final = Struct("<QQ")

_HEADER: Final = Struct("<II")
_HELLO: Final = Struct("<8sII8s")
_REGION: Final = Struct("<QQQ")
_MAGIC: Final = b"ballonet"
_VERSION: Final = 1
_KINDS: Final = ("hyperv", "vmware")
_REASON_BYTES_MAX: Final = 200
_SOURCE: Final = "siblings.framing"


class FrameKind(IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    REFUSAL = 3
    CALL = 4
    ANSWER = 5
    DOORBELL = 6
    MESSAGE = 7


#: Least and most bytes of each kind's body.
_BODY_BYTES: Final = {
    FrameKind.HELLO: (_HELLO.size, _HELLO.size + REGIONS_MAX * _REGION.size),
    FrameKind.WELCOME: (0, 0),
    FrameKind.REFUSAL: (0, _REASON_BYTES_MAX),
    FrameKind.CALL: (CALL.size, CALL.size),
    FrameKind.ANSWER: (ANSWER.size, ANSWER.size),
    FrameKind.DOORBELL: (DOORBELL.size, DOORBELL.size),
    FrameKind.MESSAGE: (0, MESSAGE_BYTES_MAX),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame."""

    kind: FrameKind
    body: bytes

    @property
    def reason(self) -> str:
        """The text of a refusal, whatever is in it."""
        return "".join(
            letter if letter.isprintable() else "?" for letter in self.body.decode(errors="replace")
        )


def pack_frame(kind: FrameKind, body: bytes = b"") -> bytes:
    """One frame as it goes over the wire; of too long a text, its beginning."""
    if kind is FrameKind.REFUSAL:
        body = body[:_REASON_BYTES_MAX]
    return _HEADER.pack(len(body), kind) + body


@dataclass(frozen=True, slots=True)
class Hello:
    """How a guest introduces itself."""

    kind: str  #: the protocol of its balloon: "hyperv" or "vmware"
    regions: tuple[Region, ...]  #: in the order of their descriptors

    def pack(self) -> bytes:
        """The body of its frame."""
        head = _HELLO.pack(_MAGIC, _VERSION, len(self.regions), self.kind.encode())
        return head + b"".join(
            _REGION.pack(one.gpa, one.size, one.file_offset) for one in self.regions
        )

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the body; whether the regions can be is for whoever maps them.

        Raises: WireError.
        """
        magic, version, count, name = _HELLO.unpack_from(body)
        if magic != _MAGIC:
            raise WireError("hello", magic, "must begin with 'ballonet'", _SOURCE)
        if version != _VERSION:
            raise WireError("hello version", version, f"must be {_VERSION}", _SOURCE)
        if not 1 <= count <= REGIONS_MAX or len(body) != _HELLO.size + count * _REGION.size:
            got = f"{count} regions in {len(body)} bytes"
            raise WireError("hello", got, f"must be 1 to {REGIONS_MAX}, and all there", _SOURCE)
        kind = name.rstrip(b"\0").decode(errors="replace")
        if kind not in _KINDS:
            raise WireError("hello protocol", repr(kind), f"is one of {_KINDS}", _SOURCE)
        return cls(kind, tuple(_regions(body, count)))


def _regions(body: bytes, count: int) -> Sequence[Region]:
    """Nothing but the guest-physical address names them, so it stands for the guest's own too."""
    rows = _REGION.iter_unpack(body[_HELLO.size : _HELLO.size + count * _REGION.size])
    return [Region(gpa, size, gpa, offset) for gpa, size, offset in rows]


class Framer:
    """Give it what was read, and take frames until there is none; then read on."""

    def __init__(self) -> None:
        self._raw = bytearray()

    @property
    def inside_frame(self) -> bool:
        """Some of a frame has arrived, but not all, or was not taken."""
        return bool(self._raw)

    @property
    def has_frame(self) -> bool:
        """`take` has something to say, be it an error."""
        if len(self._raw) < _HEADER.size:
            return False
        size, kind = _HEADER.unpack_from(self._raw)
        return not _may_be(kind, size) or len(self._raw) >= _HEADER.size + size

    def feed(self, data: bytes) -> None:
        """Keep what was read."""
        self._raw += data

    def take(self) -> Frame | None:
        """The next frame; None: not all of it is there. Raises: WireError."""
        raw = self._raw
        if len(raw) < _HEADER.size:
            return None
        size, kind = _HEADER.unpack_from(raw)
        if not _may_be(kind, size):
            raise WireError("frame", f"{size} bytes of kind {kind}", "no such frame", _SOURCE)
        end = _HEADER.size + size
        if len(raw) < end:
            return None
        frame = Frame(FrameKind(kind), bytes(raw[_HEADER.size : end]))
        del raw[:end]
        return frame


def _may_be(kind: int, size: int) -> bool:
    """There are frames of this kind and size."""
    if kind not in _BODY_BYTES:
        return False
    least, most = _BODY_BYTES[FrameKind(kind)]
    return least <= size <= most

"""The page numbers of an inflate or deflate message.

Linux sends up to 256 little-endian 32-bit numbers.  Windows sends 512 64-bit ones, of which every
second 32-bit word is zero; read as 32-bit numbers they would name page 0 again and again.

Which of the two a list is can only be guessed, and a wrong guess must do no harm: of what is given
only the pages of every reading count, of what is taken back the pages of any.
Source: VIRTIO 1.4 5.5.6; the Windows driver's BalloonFill.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MESSAGE_BYTES_MAX", "given_pfns", "taken_pfns"]

#: A message may take this long a list, a bound on the work one chain can cause: 1 GiB of pages.
MESSAGE_BYTES_MAX: Final = 1 << 20

_PFN: Final = np.dtype("<u4")
_PFN_BIG_ENDIAN: Final = np.dtype(">u4")
_ZERO: Final = bytes(4)


def given_pfns(raw: bytes, *, big_endian: bool = False) -> NDArray[np.uint32]:
    """Pages that an inflate message gives for certain; a trailing partial entry is none.

    `big_endian` is for legacy drivers of big-endian guests, whose messages are in their own order.

    A list of 64-bit numbers is recognised by all its high halves being zero.  A 32-bit list of the
    same shape loses only its mentions of page 0.
    """
    pfns = _words(raw, big_endian=big_endian)
    # The first pair decides nearly always, at a fraction of the cost of looking at all.
    if raw[4:8] == _ZERO and not big_endian and len(raw) % 8 == 0 and not pfns[1::2].any():
        return pfns[::2]
    return pfns


def taken_pfns(raw: bytes, *, big_endian: bool = False) -> NDArray[np.uint32] | None:
    """Pages that a deflate message may take back; None: it might be any.

    Each 32-bit word counts: those of a list of 64-bit numbers are its pages, and page 0.
    """
    if not raw or len(raw) % _PFN.itemsize:
        return None
    return _words(raw, big_endian=big_endian)


def _words(raw: bytes, *, big_endian: bool) -> NDArray[np.uint32]:
    kind = _PFN_BIG_ENDIAN if big_endian else _PFN
    pfns = np.frombuffer(raw, kind, count=len(raw) // kind.itemsize)
    return pfns.astype(np.uint32) if big_endian else pfns

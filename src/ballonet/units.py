"""Sizes: bytes, balloon pages, and the words people use for them.

The one place where a unit is converted.  A *balloon page* is 4 KiB whatever the page size of
guest or host [VIRTIO 1.4 5.5.6, VIRTIO_BALLOON_PFN_SHIFT].
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from ballonet.errors import SettingsError

__all__ = [
    "BALLOON_PAGE_BYTES",
    "BALLOON_PAGE_SHIFT",
    "bytes_to_pages",
    "format_bytes",
    "format_short_bytes",
    "pages_to_bytes",
    "parse_bytes",
]

BALLOON_PAGE_SHIFT: Final = 12
BALLOON_PAGE_BYTES: Final = 1 << BALLOON_PAGE_SHIFT


_SUFFIXES: Final = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|(b))", re.IGNORECASE | re.ASCII)
_BARE: Final = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_NAMES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_LETTERS: Final = "BKMGTPE"


def pages_to_bytes(pages: int) -> int:
    """Balloon pages to bytes."""
    return pages << BALLOON_PAGE_SHIFT


def bytes_to_pages(size_bytes: int) -> int:
    """Bytes to whole balloon pages, rounded down."""
    return size_bytes >> BALLOON_PAGE_SHIFT


def parse_bytes(text: str, *, key: str, limits: tuple[int, int]) -> int:
    """Read a size as people write it: ``512M``, ``1.5GiB``, ``4096B``; suffixes are powers of 1024.

    A number without a unit is one only if it is 0: whoever writes 512 may mean MiB, as QEMU's
    human monitor does, or bytes, as QMP does.
    Raises: SettingsError naming `key`, if it is no size or not within `limits`, in bytes.
    """
    number = text.strip()
    bare = _BARE.fullmatch(number)
    if bare and Decimal(number):
        raise SettingsError(key, text, f"a unit: {number}M, {number}K or, in bytes, {number}B")
    found = _SIZE.fullmatch(f"{number}B" if bare else number)
    if found is None:
        raise SettingsError(key, text, "a size such as 512M or 1.5GiB")
    size_bytes = int(Decimal(found[1]) * (1 << _SUFFIXES[(found[2] or found[3]).lower()]))
    least, most = limits
    if not least <= size_bytes <= most:
        raise SettingsError(key, text, f"between {format_bytes(least)} and {format_bytes(most)}")
    return size_bytes


def format_bytes(size_bytes: int) -> str:
    """Write a size for people: ``781.2 MiB``; exact below one KiB."""
    value, name = float(size_bytes), 0
    while abs(value) >= 1024 and name < len(_NAMES) - 1:
        value, name = value / 1024, name + 1
    return f"{size_bytes} B" if name == 0 else f"{value:.1f} {_NAMES[name]}"


def format_short_bytes(size_bytes: int) -> str:
    """Write a size for a narrow column, in five letters: ``781M``, ``1.25G``, ``12B``, ``0``."""
    value, name = float(max(0, size_bytes)), 0
    while value >= 1023.5 and name < len(_LETTERS) - 1:
        value, name = value / 1024, name + 1
    if name == 0:
        return f"{value:.0f}B" if value else "0"
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}{_LETTERS[name]}"

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
    "pages_to_bytes",
    "parse_bytes",
]

BALLOON_PAGE_SHIFT: Final = 12
BALLOON_PAGE_BYTES: Final = 1 << BALLOON_PAGE_SHIFT


_SUFFIXES: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_NAMES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def pages_to_bytes(pages: int) -> int:
    """Balloon pages to bytes."""
    return pages << BALLOON_PAGE_SHIFT


def bytes_to_pages(size_bytes: int) -> int:
    """Bytes to whole balloon pages, rounded down."""
    return size_bytes >> BALLOON_PAGE_SHIFT


def parse_bytes(text: str, *, key: str, limits: tuple[int, int]) -> int:
    """Read a size as people write it: ``512M``, ``1.5GiB``, ``4096``; suffixes are powers of 1024.

    Raises: SettingsError naming `key`, if it is no size or not within `limits`, in bytes.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SettingsError(key, text, "a size such as 512M or 1.5GiB")
    number, suffix = found.groups()
    size_bytes = int(Decimal(number) * (1 << _SUFFIXES[suffix.lower()]))
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

"""Memory of this computer, and how much its programs wait for it.

None: this kernel does not tell.
Units: bytes, seconds; shares of time are 0 to 1.
Source: proc_meminfo(5); Linux Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["HostLook", "Pressure", "look_at_this_host", "parse_meminfo", "parse_pressure"]

_PROC: Final = Path("/proc")
_KIB: Final = 1 << 10
_MEMINFO_ROW: Final = re.compile(r"(\S+):\s+(\d+) kB")
_PRESSURE_ROW: Final = re.compile(
    r"(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=[\d.]+ total=(\d+)"
)


@dataclass(frozen=True, slots=True)
class Pressure:
    """How long tasks have waited for memory: at least one, or all of them at once."""

    avg10: float  #: share of the last 10 s
    avg60: float
    total_s: float  #: since the boot


@dataclass(frozen=True, slots=True)
class HostLook:
    """One moment."""

    at_s: float  #: by a clock that never goes back
    total_bytes: int | None
    available_bytes: int | None
    swap_total_bytes: int | None
    swap_free_bytes: int | None
    some: Pressure | None
    full: Pressure | None


def look_at_this_host(proc: Path = _PROC) -> HostLook:
    """Look now."""
    memory = parse_meminfo(_text(proc / "meminfo"))
    pressure = parse_pressure(_text(proc / "pressure" / "memory"))
    return HostLook(
        time.monotonic(),
        memory.get("MemTotal"),
        memory.get("MemAvailable"),
        memory.get("SwapTotal"),
        memory.get("SwapFree"),
        pressure.get("some"),
        pressure.get("full"),
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """Rows of /proc/meminfo, in bytes."""
    return {name: int(size) * _KIB for name, size in _MEMINFO_ROW.findall(text)}


def parse_pressure(text: str) -> dict[str, Pressure]:
    """`some` and `full` of /proc/pressure/memory."""
    return {
        name: Pressure(float(avg10) / 100, float(avg60) / 100, int(total) / 1e6)
        for name, avg10, avg60, total in _PRESSURE_ROW.findall(text)
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

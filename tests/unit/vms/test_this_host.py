"""What a computer tells of its own memory."""

from __future__ import annotations

from pathlib import Path

from ballonet.vms.this_host import Pressure, look_at_this_host

MEMINFO = """\
MemTotal:       24640036 kB
MemFree:        23110004 kB
MemAvailable:   23893120 kB
HugePages_Total:       0
SwapTotal:       1048572 kB
SwapFree:        1048000 kB
"""
PRESSURE = """\
some avg10=1.50 avg60=0.25 avg300=0.00 total=2500000
full avg10=0.00 avg60=0.00 avg300=0.00 total=7
"""


def test_memory_is_in_bytes_and_pressure_a_share_of_time(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "pressure" / "memory").write_text(PRESSURE)
    look = look_at_this_host(tmp_path)
    assert look.total_bytes == 24640036 * 1024
    assert look.available_bytes == 23893120 * 1024
    assert look.swap_total_bytes == 1048572 * 1024
    assert look.swap_free_bytes == 1048000 * 1024
    assert look.some == Pressure(0.015, 0.0025, 2.5)
    assert look.full == Pressure(0.0, 0.0, 7e-6)


def test_a_kernel_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    look = look_at_this_host(tmp_path)
    assert (look.total_bytes, look.available_bytes, look.some) == (None, None, None)


def test_this_computer_has_memory() -> None:
    look = look_at_this_host()
    assert look.total_bytes is not None
    assert look.available_bytes is not None
    assert 0 < look.available_bytes <= look.total_bytes

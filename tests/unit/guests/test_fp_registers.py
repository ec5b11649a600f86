"""Which processors have too many registers, and what a kernel on them is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.guests.fp_registers import NO_AVX, exceed_the_kernel, only_sse_registers

#: Traces a child of its own, and reads its registers both ways.
ATTEMPTS = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_ulong, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, None)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(child, 0)
room = ctypes.create_string_buffer(1 << 16)
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(room), len(room))
for request, kind in ((0x4204, 0x202), (0x4204, 2), (14, 0)):
    where = room if request == 14 else vector
    ctypes.set_errno(0)
    print(libc.ptrace(request, child, kind, ctypes.addressof(where)), ctypes.get_errno())
os.kill(child, signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("flags", "exceed"),
    [
        ("sse avx avx512f", False),
        ("avx512f amx_bf16 amx_tile", True),
        ("avx apx", True),
        ("", False),
    ],
)
def test_the_processor_says_what_it_has(tmp_path: Path, flags: str, exceed: bool) -> None:
    text = f"processor : 0\nmodel name : with amx_tile in its name\nflags\t\t: {flags}\nbugs : x\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert exceed_the_kernel(tmp_path / "cpuinfo") is exceed


def test_only_the_whole_of_the_registers_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS],
        preexec_fn=only_sse_registers(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["-1 22", "0 0", "0 0"]


def test_a_kernel_hands_the_words_to_its_programs() -> None:
    name, _, value = NO_AVX.partition("=")
    assert "." not in name  # it would be a parameter of a module
    assert " " not in value
    assert value.startswith("glibc.cpu.hwcaps=-")

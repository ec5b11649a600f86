"""User-Mode Linux on a processor that has more registers than it keeps.

Linux gives a traced process's extended registers in part but takes them whole only.  User-Mode
Linux 6.1 keeps 2,696 bytes of them, all up to AVX-512; with AMX there are 11,008, and its first
process ends in "ptrace set fp regs failed, errno = 14".  It knows another way, through the 512
bytes of the first SSE, which it takes where the kernel refuses to read the rest: here a filter
refuses that.  What is beyond SSE is lost then at every page fault in the guest, so its programs,
whose C library would copy memory by AVX, are told that there is none.
Source: arch/x86/um/os-Linux/registers.c, arch_init_registers; xstateregs_set of Linux.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ballonet.runtime.seccomp import filter_system_calls, give_up_new_privileges

__all__ = ["NO_AVX", "exceed_the_kernel", "only_sse_registers"]

#: For the kernel's command line, which hands it to the guest's programs: glibc's own words.
NO_AVX: Final = (
    "GLIBC_TUNABLES=glibc.cpu.hwcaps="
    + ",".join(f"-{name}" for name in ("AVX", "AVX2", "AVX512F", "AVX512VL", "AVX512BW"))
    + ",-AVX_Fast_Unaligned_Load"
)
#: Names in /proc/cpuinfo of those whose registers make the whole longer than 2,696 bytes.
_TOO_LARGE: Final = frozenset(("amx_tile", "apx"))

_SYS_PTRACE, _PTRACE_GETREGSET, _NT_X86_XSTATE = 101, 0x4204, 0x202
_AT_NUMBER, _AT_REQUEST, _AT_KIND = 0, 16, 32  # in struct seccomp_data; lower halves
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_REFUSE, _ALLOW = 0x0005_0000 | errno.EINVAL, 0x7FFF_0000


def _filter() -> bytes:
    """Refuse ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE); jumps count what is left out."""
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _AT_NUMBER),
            (_JUMP_IF_EQUAL, 0, 5, _SYS_PTRACE),
            (_LOAD, 0, 0, _AT_REQUEST),
            (_JUMP_IF_EQUAL, 0, 3, _PTRACE_GETREGSET),
            (_LOAD, 0, 0, _AT_KIND),
            (_JUMP_IF_EQUAL, 0, 1, _NT_X86_XSTATE),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        )
    )


def exceed_the_kernel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the processor has registers that User-Mode Linux cannot put back."""
    flags = next((one for one in cpuinfo.read_text().splitlines() if one.startswith("flags")), "")
    return not _TOO_LARGE.isdisjoint(flags.split())


def only_sse_registers() -> Callable[[], None]:
    """What the process that becomes the kernel calls before it does.

    Between a fork and what follows it does only what threads of the parent cannot hinder.
    """
    instructions = _filter()

    def enter() -> None:
        give_up_new_privileges()
        filter_system_calls(instructions)

    return enter

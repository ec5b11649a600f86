"""What a process that serves a guest gives up, so that a guest which took it over gains little.

Capabilities, new privileges, core files, more memory, files and descriptors than a device can need
and, where libseccomp and its Python binding are installed, the system calls of the table below.
They fail with EPERM, which the interpreter survives: a list of what is *allowed* would have to
follow every release of Python, numpy and the C library, and ends a guest's device where it does
not.
Not here: what the file system shows; files of the same user can be read and written as before.
Source: capabilities(7), prctl(2), seccomp(2), getrlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from ballonet.errors import SystemCallError
from ballonet.runtime.seccomp import filter_system_calls, give_up_new_privileges

__all__ = ["DENIED", "Sandbox", "SandboxLimits"]

_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
#: _LINUX_CAPABILITY_VERSION_3, for this process; three sets of 64 capabilities follow.
_CAP_HEADER: Final = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPABILITIES: Final = bytes(24)

#: System calls that no device makes, and a guest in its place would.
DENIED: Final = (
    *("execve", "execveat", "fork", "vfork"),  # other programs
    *("connect", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),  # ... of ours
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "ptrace", "kcmp"),
    *("process_vm_readv", "process_vm_writev"),
    *("mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_tree", "move_mount"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at"),
    *("open_by_handle_at", "mknod", "mknodat", "swapon", "swapoff", "quotactl", "acct"),
    *("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "fanotify_init"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname"),
    *("setdomainname", "iopl", "ioperm", "syslog", "personality", "setuid", "setgid", "setreuid"),
    *("setregid", "setresuid", "setresgid", "setgroups", "capset", "modify_ldt", "lookup_dcookie"),
)
_CLONE_THREAD: Final = 0x0001_0000

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """The most that a process may have; a limit that is lower already stays."""

    mapped_bytes: int
    files: int  #: open descriptors
    file_bytes: int  #: size of a file that it writes


class Sandbox:
    """Made in time, which may start other programs; entered once, by this process or a child."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        # Compiled here once: in a child it would take ten times the memory of all the rest.
        self._filter = _compiled_rules()
        self._last_capability = int(Path("/proc/sys/kernel/cap_last_cap").read_text())

    @property
    def filters_system_calls(self) -> bool:
        """Libseccomp and its binding are there."""
        return self._filter is not None

    def enter(self) -> None:
        """Give all of it up, for ever.  Raises: SystemCallError.

        Threads that were started before keep their capabilities.
        """
        for kind, limit in (
            (resource.RLIMIT_AS, self._limits.mapped_bytes),
            (resource.RLIMIT_NOFILE, self._limits.files),
            (resource.RLIMIT_FSIZE, self._limits.file_bytes),
            (resource.RLIMIT_CORE, 0),
        ):
            _lower_limit(kind, limit)
        _drop_capabilities(self._last_capability)
        give_up_new_privileges()
        if self._filter is not None:
            filter_system_calls(self._filter)


def _lower_limit(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (limit, limit))


def _drop_capabilities(last: int) -> None:
    """All of them, from every set; who has none may not drop any from the bounding set."""
    for number in range(last + 1):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = ctypes.create_string_buffer(_CAP_HEADER, len(_CAP_HEADER))
    if _libc.capset(header, _NO_CAPABILITIES):
        reason = os.strerror(ctypes.get_errno())
        raise SystemCallError("dropping capabilities", "of this process", reason)


def _compiled_rules() -> bytes | None:
    """A program for the kernel; None without the library that makes one."""
    try:
        import pyseccomp as seccomp  # noqa: PLC0415 - not everywhere
    except (ImportError, RuntimeError):  # the binding, or the library behind it
        return None
    refusal = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in DENIED:
        with suppress(ValueError):  # a name that this libseccomp does not know
            rules.add_rule(refusal, name)
    for name in ("socket", "socketpair"):
        rules.add_rule(refusal, name, seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    rules.add_rule(refusal, "prlimit64", seccomp.Arg(0, seccomp.NE, 0))
    # Threads, not processes.  The arguments of clone3 are out of a filter's sight; where it does
    # not exist the C library makes threads by clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(refusal, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    with TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()

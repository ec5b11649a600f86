"""The guest's first file system: a cpio archive with busybox, kernel modules and an init.

    "newc" entry   070701, thirteen 8-digit hex fields, name, zero; then the data; each padded to 4
    last entry     named TRAILER!!!

Init serves commands that the host sends over the serial line, or gives the console to a person
(mode console) or to whatever is piped in (mode script).  A command arrives as one line
``<id> <seconds> <base64>``; its answer is one line ``<id> <exit code> <bytes>`` and then that many
bytes of output.
Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

__all__ = ["Entry", "guest_files", "pack_cpio"]

_INIT: Final = """#!/bin/busybox sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs -o size=95% tmpfs /tmp
mount -t tmpfs -o size=32M tmpfs /run
hostname guest
export HOME=/root PATH=/bin
[ "$BALLONET_BALLOON" = no ] || for module in @MODULES@; do insmod /$module; done
@FIRST@
cd /root
case "$BALLONET_MODE" in
    console) echo "Linux $(uname -r), leave with Ctrl-D"; setsid cttyhack sh; poweroff -f;;
    script) stty -echo; echo "Linux $(uname -r), reading commands"; cat | sh; poweroff -f;;
esac
serve() {
    echo -1000 > /proc/self/oom_score_adj
    exec < /dev/@LINE@ > /dev/@LINE@
    stty raw -echo
    echo "ready $(uname -r)"
    while read -r id seconds encoded; do
        [ "$id" ] || continue
        echo "$encoded" | base64 -d > /run/command
        timeout -s KILL "$seconds" /run-command > /run/output 2>&1 < /dev/null
        echo "$id $? $(wc -c < /run/output)"
        cat /run/output
    done
}
# Not in this shell: it hears whenever a process ends that has lost its parent, as one of each
# `timeout` does a second after its command, and `read` then forgets what it has of a line.
serve &
wait $!
poweroff -f
"""

# What the host asks for may be killed when memory runs out; what serves the host may not.
_RUN_COMMAND: Final = """#!/bin/busybox sh
echo 500 > /proc/self/oom_score_adj
exec sh /run/command
"""

_DIRECTORIES: Final = ("bin", "dev", "proc", "root", "run", "sys", "tmp")


class Entry(NamedTuple):
    """One file, directory or device of an archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def guest_files(
    busybox: bytes,
    applets: list[str],
    modules: Mapping[str, bytes],
    *,
    line: str = "ttyS0",
    first: str = ":",
) -> list[Entry]:
    """Everything the guest starts with; links to busybox are made here, where they cost nothing.

    `modules` by the names of their files, in the order they are loaded; `line` is the terminal that
    init serves, and `first` what it does before, in its shell.
    """
    program = stat.S_IFREG | 0o755
    init = _INIT.replace("@MODULES@", " ".join(modules))
    init = init.replace("@LINE@", line).replace("@FIRST@", first)
    return [
        *(Entry(name, stat.S_IFDIR | 0o755) for name in _DIRECTORIES),
        *(Entry(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox") for applet in applets),
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Entry("bin/busybox", program, busybox),
        Entry("init", program, init.encode()),
        Entry("run-command", program, _RUN_COMMAND.encode()),
        *(Entry(name, stat.S_IFREG | 0o644, data) for name, data in modules.items()),
    ]


def pack_cpio(entries: list[Entry]) -> bytes:
    """The archive, as the kernel unpacks it."""
    return b"".join(_pack_entries([*entries, Entry("TRAILER!!!", 0)]))


def _pack_entries(entries: list[Entry]) -> Iterator[bytes]:
    for inode, entry in enumerate(entries, start=1):
        name = entry.name.encode() + b"\0"
        owner = group = modified = check = 0
        fields = (
            *(inode, entry.mode, owner, group, 1, modified, len(entry.data), 0, 0),
            *(*entry.device, len(name), check),
        )
        header = b"070701" + b"".join(b"%08x" % value for value in fields)
        yield _padded(header + name)
        yield _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

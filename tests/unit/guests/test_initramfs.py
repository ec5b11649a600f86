"""The archive the kernel unpacks, read back by a reader written from the format's description."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from ballonet.guests.initramfs import Entry, guest_files, pack_cpio


def unpack(archive: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    """Every entry before the trailer."""
    found: list[tuple[str, int, bytes, tuple[int, int]]] = []
    at = 0
    while True:
        header = archive[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        name_end = at + 110 + fields[11]
        name = archive[at + 110 : name_end - 1].decode()
        data_at = -(-name_end // 4) * 4
        data = archive[data_at : data_at + fields[6]]
        at = -(-(data_at + fields[6]) // 4) * 4
        if name == "TRAILER!!!":
            assert at == len(archive)
            return found
        found.append((name, fields[1], data, (fields[9], fields[10])))


names = st.text("abcdef/._-", min_size=1, max_size=12)


@given(st.lists(st.tuples(names, st.binary(max_size=20)), max_size=8))
def test_every_entry_comes_back_whatever_its_length(files: list[tuple[str, bytes]]) -> None:
    entries = [Entry(name, stat.S_IFREG | 0o644, data) for name, data in files]
    assert [(name, data) for name, _, data, _ in unpack(pack_cpio(entries))] == files


def test_the_guest_gets_a_console_an_init_and_a_link_for_each_applet() -> None:
    files = guest_files(b"BB", ["sh", "dd"], {"virtio_balloon.ko": b"KO"})
    found = {name: (mode, data, device) for name, mode, data, device in unpack(pack_cpio(files))}
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["virtio_balloon.ko"][1] == b"KO"
    assert found["bin/sh"][:2] == (stat.S_IFLNK | 0o777, b"busybox")
    assert stat.S_IMODE(found["init"][0]) == 0o755


def test_init_loads_the_modules_in_their_order_and_serves_the_line_it_is_told() -> None:
    files = guest_files(b"", [], {"vmci.ko": b"1", "balloon.ko": b"2"}, line="ttyS1", first="hi")
    init = next(entry.data.decode() for entry in files if entry.name == "init")
    assert "for module in vmci.ko balloon.ko; do" in init
    assert "exec < /dev/ttyS1 > /dev/ttyS1" in init
    assert init.index("vmci.ko") < init.index("\nhi\n") < init.index("ttyS1")
    assert "@" not in init

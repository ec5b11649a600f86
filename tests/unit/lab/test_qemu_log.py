"""QEMU's own trace is read as it writes it."""

from __future__ import annotations

from ballonet.lab.qemu_log import parse_qemu_log

LOG = """\
4711@1700000000.000123:virtio_balloon_to_target balloon target: 0xf000000 num_pages: 4096
2023-11-14T22:13:20.000200Z qemu-system-x86_64: warning: something else
4712@1700000001.000000:migration_bitmap_sync_start
"""


def test_each_event_has_thread_time_name_and_text() -> None:
    target, sync = parse_qemu_log(LOG)
    assert (target.thread, target.name) == (4711, "virtio_balloon_to_target")
    assert target.wall_ns == 1_700_000_000_000_123_000
    assert target.text == "balloon target: 0xf000000 num_pages: 4096"
    assert (sync.thread, sync.name, sync.text) == (4712, "migration_bitmap_sync_start", "")

"""Image files on real disks: written whole or not at all, damage found, lies refused."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from tests.support.image_files import PAGE, end_mark, header, read_image
from tests.support.small_disk import small_disk
from tests.support.wait import PATIENCE_S

from ballonet.errors import GuestMemoryError, SystemCallError, WireError
from ballonet.migration.compare import FilePages
from ballonet.migration.image import ImageLayout, plan_image
from ballonet.migration.image_check import check_image, diff_image
from ballonet.migration.image_file import ImageReader, ImageWriter

BALLONET: Final = Path(sys.executable).with_name("ballonet")
MIB: Final = 1 << 20
LAYOUT: Final = plan_image("kind", "name", [(0, 3 * MIB + 2 * PAGE)])
ZEROS: Final = bytes(PAGE)


def page(number: int) -> bytes:
    return bytes([number]) * PAGE


def write(path: Path, contents: dict[int, bytes], layout: ImageLayout = LAYOUT) -> None:
    with ImageWriter(path, layout) as image:
        for pfn, data in contents.items():
            image.write(pfn * PAGE, memoryview(data))
        image.finish()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


CONTENTS: Final = {0: page(1), 255: page(2), 256: page(3), 769: page(4)}


def test_an_image_is_what_its_documentation_says(path: Path) -> None:
    write(path, CONTENTS)
    image = read_image(path)
    assert image.memory_bytes == 3 * MIB + 2 * PAGE
    assert image.pages == CONTENTS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # it holds all secrets of a guest
    assert path.stat().st_blocks * 512 <= 16 * PAGE  # the rest is holes
    with ImageReader(path) as reader:
        check = check_image(reader)
        assert (check.pages, check.is_whole) == (4, True)
        assert reader.layout == LAYOUT
        assert np.flatnonzero(reader.there(0, reader.layout.blocks)).tolist() == list(CONTENTS)


def test_a_later_pass_overwrites_in_place_and_makes_holes(path: Path) -> None:
    with ImageWriter(path, LAYOUT) as image:
        image.write(0, memoryview(page(1) + page(2) + page(3) + page(4)))
        image.write(PAGE, memoryview(page(9)))
        image.leave_out(2 * PAGE, 2 * PAGE)
        image.leave_out(5 * PAGE, PAGE)  # was never there
        image.write(3 * PAGE, memoryview(page(7)))
        image.finish()
    assert read_image(path).pages == {0: page(1), 1: page(9), 3: page(7)}


@pytest.mark.parametrize(("gpa", "size"), [(3 * MIB, 3 * PAGE), (4 * MIB, PAGE), (1, PAGE), (0, 5)])
def test_what_lies_in_no_region_is_not_written(path: Path, gpa: int, size: int) -> None:
    with ImageWriter(path, LAYOUT) as image:
        with pytest.raises(GuestMemoryError):
            image.write(gpa, memoryview(bytes(size)))
        with pytest.raises(GuestMemoryError):
            image.leave_out(gpa, size)


def test_regions_lie_behind_each_other(path: Path) -> None:
    layout = plan_image("kind", "name", [(0, 2 * PAGE), (1 << 40, 2 * PAGE)])
    with ImageWriter(path, layout) as image:
        image.write((1 << 40) + PAGE, memoryview(page(5)))
        image.write(0, memoryview(page(6)))
        image.finish()
    raw = path.read_bytes()[layout.pages_offset : layout.end_offset]
    assert raw == page(6) + ZEROS + ZEROS + page(5)


def test_what_was_not_finished_is_removed_and_the_old_one_stays(path: Path) -> None:
    write(path, {1: page(1)})
    with ImageWriter(path, LAYOUT) as image:
        image.write(0, memoryview(page(2)))
        assert sorted(one.name for one in path.parent.iterdir()) == ["image", "image.partial"]
    assert read_image(path).pages == {1: page(1)}
    assert list(path.parent.iterdir()) == [path]
    write(path, {2: page(2)})
    assert read_image(path).pages == {2: page(2)}


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        path = disk.path / "image"
        with pytest.raises(SystemCallError) as full:
            write(path, {pfn: page(7) for pfn in range(100)})
        assert str(full.value) == f"writing {path}: No space left on device"
        assert list(disk.path.iterdir()) == []


def test_a_disk_that_is_full_at_the_very_end_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        path = disk.path / "image"
        with ImageWriter(path, LAYOUT) as image:
            image.write(0, memoryview(page(7)))
            disk.fill()
            with pytest.raises(SystemCallError, match="No space left on device"):
                image.finish()
        disk.free()
        assert list(disk.path.iterdir()) == []


WRITER = """
import sys, threading
from pathlib import Path
from ballonet.migration.image import plan_image
from ballonet.migration.image_file import ImageWriter
with ImageWriter(Path(sys.argv[1]), plan_image("kind", "name", [(0, 1 << 20)])) as image:
    image.write(0, memoryview(bytes(4096)))
    print("here", flush=True)
    threading.Event().wait()
"""


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"here\n"
            yield process
        finally:
            process.kill()


def test_what_a_killed_process_left_is_named_clearly_and_replaced_by_the_next(path: Path) -> None:
    with writing(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert [one.name for one in path.parent.iterdir()] == ["image.partial"]
    with pytest.raises(WireError, match="END mark"):
        ImageReader(path.with_name("image.partial"))
    write(path, CONTENTS)
    assert read_image(path).pages == CONTENTS
    assert list(path.parent.iterdir()) == [path]


def test_two_do_not_write_the_same_image_at_a_time(path: Path) -> None:
    with writing(path) as process:
        with pytest.raises(SystemCallError, match="somebody else is writing it"):
            write(path, CONTENTS)
        assert path.with_name("image.partial").exists()  # it is theirs
        process.kill()


def test_a_link_in_the_place_of_the_draft_leads_nowhere(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    draft = path.with_name("image.partial")
    for plant in (draft.symlink_to, draft.hardlink_to):
        plant(victim)
        with pytest.raises(SystemCallError, match=f"writing {path}"):
            write(path, CONTENTS)
        assert victim.read_text() == "precious"
        draft.unlink()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_only_a_file_is_replaced(path: Path, make: object) -> None:
    assert callable(make)
    make(path)
    with pytest.raises(SystemCallError, match="something else than a file is there"):
        write(path, CONTENTS)
    with pytest.raises(SystemCallError, match="not a regular file"):
        ImageReader(path)


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none" / "image"
    with pytest.raises(SystemCallError, match=f"writing {path}: No such file or directory"):
        ImageWriter(path, LAYOUT)
    with pytest.raises(SystemCallError, match=f"reading {path}: No such file or directory"):
        ImageReader(path)


def is_noticed(path: Path) -> bool:
    """The file is refused or called damaged."""
    try:
        with ImageReader(path) as reader:
            return not check_image(reader).is_whole
    except (WireError, SystemCallError):
        return True


def test_every_byte_of_an_image_matters(path: Path) -> None:
    small = plan_image("kind", "name", [(0, 2 * PAGE)])
    write(path, {1: page(1)}, small)
    assert not is_noticed(path)
    whole = path.read_bytes()
    # All of the header's fields and the END mark; of the rest every 61st byte, a hole among them.
    for at in [
        *range(200),
        *range(200, small.end_offset, 61),
        *range(small.end_offset, len(whole)),
    ]:
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert is_noticed(path), at


def test_a_cut_anywhere_is_noticed(path: Path) -> None:
    write(path, CONTENTS)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 49_999), len(whole) - 1, LAYOUT.end_offset]:
        path.write_bytes(whole[:size])
        with pytest.raises(WireError):
            ImageReader(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(WireError):
        ImageReader(path)


def test_an_image_that_is_cut_while_it_is_read_is_an_error(path: Path) -> None:
    write(path, CONTENTS)
    for size in (LAYOUT.pages_offset + MIB, LAYOUT.pages_offset, LAYOUT.checksums_offset, 10):
        write(path, CONTENTS)
        with ImageReader(path) as reader:
            os.truncate(path, size)
            with pytest.raises(SystemCallError, match="it was cut short"):
                check_image(reader)


def test_a_file_that_claims_to_be_huge_costs_no_memory() -> None:
    """1 TiB of guest, all of it a hole; its pages would be 268 million."""
    layout = plan_image("kind", "name", [(0, 1 << 40)])
    tables = layout.pages_offset - layout.bitmap_offset
    offsets = (
        layout.bitmap_offset,
        layout.checksums_offset,
        layout.pages_offset,
        layout.end_offset,
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # has such files
        path = Path(folder) / "image"
        path.write_bytes(header([(0, 1 << 40, layout.pages_offset)], offsets))
        os.truncate(path, layout.end_offset)
        with path.open("ab") as file:
            file.write(end_mark(0, zlib.crc32(bytes(tables))))
        tracemalloc.start()
        try:
            with ImageReader(path) as reader:
                assert check_image(reader).is_whole
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()


def test_damaged_blocks_are_told_and_no_others(path: Path) -> None:
    write(path, CONTENTS)
    with path.open("r+b") as file:
        file.seek(LAYOUT.pages_offset + 300 * PAGE)  # a hole of block 1
        file.write(b"x")
        file.seek(LAYOUT.pages_offset + 769 * PAGE)
        file.write(b"x")
    with ImageReader(path) as reader:
        found = check_image(reader)
    assert found.damaged == (1, 3)
    assert not found.tables_damaged


def memory_of(contents: dict[int, bytes]) -> FilePages:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, LAYOUT.pages * PAGE)
    for pfn, data in contents.items():
        os.pwrite(fd, data, pfn * PAGE)
    return FilePages(fd, LAYOUT.pages, "memory")


def test_runs_of_pages_that_differ_from_a_guest_are_listed(path: Path) -> None:
    write(path, CONTENTS)
    memory = memory_of(CONTENTS | {3: ZEROS, 4: page(8), 5: page(8), 255: ZEROS})
    try:
        with ImageReader(path) as reader:
            runs = diff_image(reader, memory)
        assert runs.first_pfns.tolist() == [4, 255]
        assert runs.pages.tolist() == [2, 1]
    finally:
        os.close(memory.fd)


def test_memory_of_another_size_is_refused(path: Path) -> None:
    write(path, CONTENTS)
    memory = memory_of({})
    try:
        with ImageReader(path) as reader, pytest.raises(WireError, match="the guest has 4096"):
            diff_image(reader, memory._replace(pages=1))
    finally:
        os.close(memory.fd)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BALLONET, *arguments], capture_output=True, text=True, check=False)


def test_the_verb_checks_an_image(path: Path) -> None:
    write(path, CONTENTS)
    done = run("image", "check", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "whole: 16.0 KiB of memory, kind, name\n"
    fields = json.loads(run("image", "check", path, "--json").stdout)
    assert fields["is_whole"] is True
    assert fields["pages"] == 4
    with path.open("r+b") as file:
        file.seek(LAYOUT.pages_offset)
        file.write(b"x")
    done = run("image", "check", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ballonet: damaged: 1.0 MiB, the first of it at 0x0 of memory\n"
    done = run("image", "check", path, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["damaged_block_indexes"] == [0]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("image", "check", "none"), 1, "ballonet: reading none: No such file or directory\n"),
        (
            ("image", "check", "/dev/null"),
            1,
            "ballonet: reading /dev/null: it is not a regular file\n",
        ),
        (("image", "diff", "none", "x"), 2, "ballonet: GUEST: got 'x', expected the number of"),
        (("snapshot",), 2, "ballonet: Missing argument '[GUEST] FILE'"),
        (("snapshot", "1", "2", "3"), 2, "ballonet: expected [GUEST] FILE, got 3 words\n"),
        (("snapshot", "web", "x"), 2, "ballonet: GUEST: got 'web', expected the number of"),
        (("snapshot", "0", "x"), 2, "ballonet: GUEST: got '0', expected the number of"),
        (("snapshot", "99999999", "x"), 1, "ballonet: there is no process 99999999\n"),
        (("snapshot", "--squeeze", "12", "x"), 2, "ballonet: --squeeze: not with GUEST"),
        (("snapshot", "none/x"), 2, "ballonet: FILE: none/x is no name of a file"),
        (("snapshot", "."), 2, "ballonet: FILE: . is no name of a file"),
    ],
)
def test_wrong_use_is_one_line(
    words: tuple[str, ...], code: int, text: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [BALLONET, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == code
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_no_guest_is_not_stopped(path: Path) -> None:
    done = run("snapshot", str(os.getpid()), path)
    assert done.returncode == 1
    assert done.stderr.endswith("is no User-Mode Linux: it has no memory file\n")

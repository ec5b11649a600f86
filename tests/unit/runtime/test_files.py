"""Files that survive a crash, and drafts that nobody can plant."""

import os
import stat
from pathlib import Path

import pytest
from tests.support.small_disk import small_disk

from ballonet.errors import SystemCallError
from ballonet.runtime.files import SMALL_BYTES, put_aside, read_small, write_whole


def test_what_was_written_is_read_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    previous = os.umask(0)
    try:
        write_whole(path, "old\n")
        write_whole(path, "new\n")
    finally:
        os.umask(previous)
    assert read_small(path) == b"new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def test_a_link_planted_where_the_draft_goes_is_replaced_and_its_target_kept(
    tmp_path: Path,
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious")
    draft_of(path).symlink_to(victim)
    write_whole(path, "state")
    assert (victim.read_text(), path.read_text()) == ("precious", "state")
    assert not path.is_symlink()


def test_a_folder_where_the_draft_goes_is_an_error_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    draft_of(path).mkdir()
    with pytest.raises(SystemCallError, match="writing"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_a_draft_of_a_killed_process_of_the_same_number_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    draft_of(path).write_text("half of some")
    write_whole(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_and_leaves_the_file_and_no_draft(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk.path / "file"
        write_whole(path, "old")
        disk.fill()
        with pytest.raises(SystemCallError, match="No space left"):
            write_whole(path, "new")
        assert path.read_text() == "old"
        assert {one.name for one in disk.path.iterdir()} == {"file", "ballast"}


def test_a_file_that_is_not_there_reads_as_none(tmp_path: Path) -> None:
    assert read_small(tmp_path / "file") is None


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_not_a_file_is_refused_without_waiting_for_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path = Path("/dev/zero")
    with pytest.raises(SystemCallError, match="reading"):
        read_small(path)


def test_a_file_too_long_to_be_ours_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=str(SMALL_BYTES)):
        read_small(path)


def test_what_is_put_aside_never_replaces_anything(tmp_path: Path) -> None:
    path = tmp_path / "file"
    names = []
    for text in ("one", "two", "three"):
        path.write_text(text)
        names.append(put_aside(path))
    assert [name.name for name in names] == ["file.bad", "file.bad1", "file.bad2"]
    assert [name.read_text() for name in names] == ["one", "two", "three"]
    assert not path.exists()


def test_a_link_planted_at_the_last_moment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    open_it = os.open

    def plant_first(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            Path(path).symlink_to(victim)
        return open_it(path, flags, mode)

    monkeypatch.setattr(os, "open", plant_first)
    with pytest.raises(SystemCallError):
        write_whole(tmp_path / "state", "new")
    assert victim.read_text() == "precious"


def test_contents_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def spy_sync(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "contents")
        sync(fd)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_whole(tmp_path / "state", "new")
    assert steps == ["contents", "name", "folder"]

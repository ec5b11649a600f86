"""What a machine that lacks something is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ballonet.errors import GuestError
from ballonet.guests import kernel_package
from ballonet.guests.kernel_package import find_kernel_package


def test_a_missing_kernel_names_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestError, match="apt-get install user-mode-linux busybox-static"):
        find_kernel_package()


def fake_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Programs that answer as the real ones do, and a module tree to fill."""
    for name, answer in (("linux.uml", "9.9.9"), ("busybox", "sh")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {answer}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(kernel_package, "_MODULE_TREES", tmp_path / "modules")
    folder = tmp_path / "modules" / "9.9.9" / "kernel" / "drivers" / "virtio"
    folder.mkdir(parents=True)
    return folder


def test_the_module_of_any_kernel_version_is_found_packed_or_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = fake_machine(monkeypatch, tmp_path)
    (folder / "virtio_balloon.ko.gz").write_bytes(gzip.compress(b"module"))
    package = find_kernel_package()
    assert (package.release, package.balloon_module) == ("9.9.9", b"module")


@pytest.mark.parametrize("name", ["virtio_balloon.ko.gz", "virtio_balloon.ko.xz"])
def test_a_module_that_cannot_be_read_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = fake_machine(monkeypatch, tmp_path)
    (folder / name).write_bytes(b"no archive at all")
    with pytest.raises(GuestError, match=name):
        find_kernel_package()


def test_no_module_at_all_and_an_unknown_packing_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = fake_machine(monkeypatch, tmp_path)
    with pytest.raises(GuestError, match=r"no virtio_balloon\.ko below"):
        find_kernel_package()
    (folder / "virtio_balloon.ko.zst").write_bytes(b"")
    with pytest.raises(GuestError, match="packed in a way"):
        find_kernel_package()

"""A module of ours for a guest's kernel, built on this machine against that kernel's own headers.

A kernel with module versions compares a checksum of each function's types with the one that its
caller was built with.  The bus's functions get different ones here than in the kernel's own build,
because other headers are read before them, although the types are the same.  So the checksums
that the kernel's build noted down are put in place of ours between compiling and linking.
What was built is kept under build/, and found again by what it was made of.
Source: Linux scripts/Makefile.build (cmd_gen_symversions_c), scripts/mod/modpost.c.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError
from ballonet.guests.processes import PrivateDirectory

__all__ = ["build_vmbus_stand_in"]

_INSTALL: Final = "run: sh scripts/system-packages qemu"
_ROOTS: Final = (Path("build/kernel"), Path("/"))
_KEPT: Final = Path("build/modules")
_NAME: Final = "vmbus_stand_in"
_SOURCES: Final = (f"{_NAME}.c", "Kbuild")
_TAKES_PLACE_OF: Final = "drivers/hv/hv_vmbus"  #: the module whose functions ours exports
_CHECKSUM: Final = re.compile(r"^#SYMVER (\w+) 0x[0-9a-f]+", re.MULTILINE)


def build_vmbus_stand_in(release: str) -> Path:
    """The module for a kernel of this release. Raises: GuestError, if it cannot be built."""
    headers = _find_headers(release)
    checksums = _checksums(headers / "Module.symvers")
    sources = {
        name: (files("ballonet.guests") / "modules" / name).read_bytes() for name in _SOURCES
    }
    kept = _KEPT / f"{_NAME}-{_hash(release, checksums, sources)}.ko"
    if not kept.exists():
        with PrivateDirectory("ballonet-module-") as directory:
            for name, data in sources.items():
                (directory / name).write_bytes(data)
            _build(headers, directory, checksums)
            _keep((directory / f"{_NAME}.ko").read_bytes(), kept)
    return kept


def _find_headers(release: str) -> Path:
    for root in _ROOTS:
        headers = root / f"usr/src/linux-headers-{release}"
        if (headers / "Module.symvers").exists():
            return headers.resolve()
    raise GuestError(f"the headers of Linux {release} are not there; {_INSTALL}")


def _checksums(path: Path) -> dict[str, str]:
    """Of the functions ours stands in for: columns are checksum, name, module, kind of export."""
    rows = (line.split("\t") for line in path.read_text(encoding="ascii").splitlines())
    return {name: value for value, name, module, *_ in rows if module == _TAKES_PLACE_OF}


def _hash(release: str, checksums: Mapping[str, str], sources: Mapping[str, bytes]) -> str:
    made_of = repr((release, sorted(checksums.items()), sorted(sources.items())))
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def _build(headers: Path, directory: Path, checksums: Mapping[str, str]) -> None:
    _make(headers, directory, f"{_NAME}.o")
    commands = directory / f".{_NAME}.o.cmd"
    text = commands.read_text(encoding="utf-8")
    text = _CHECKSUM.sub(lambda found: f"#SYMVER {found[1]} {checksums[found[1]]}", text)
    commands.write_text(text, encoding="utf-8")
    _make(headers, directory, "modules")


def _make(headers: Path, directory: Path, target: str) -> None:
    # Debian's own Makefile names the common headers by where they are when they are installed.
    common = re.sub(r"-\w+$", "-common", re.sub(r"-cloud(?=-)", "", headers.name))
    makefile = headers.with_name(common) / "Makefile"
    command = [
        *("make", "-s", "-C", str(headers), "-f", str(makefile)),
        *(f"M={directory}", "CONFIG_DEBUG_INFO=", target),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise GuestError(f"{command[0]} cannot be started: {error.strerror}; {_INSTALL}") from error
    if done.returncode:
        raise GuestError(f"a module for the guest cannot be built:\n{done.stderr.strip()[-2000:]}")


def _keep(module: bytes, path: Path) -> None:
    """Somebody else may build the same at this moment: whoever is last has it kept."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(module)
        draft.replace(path)
    except OSError as error:
        raise GuestError(f"{path} cannot be written: {error.strerror}") from error

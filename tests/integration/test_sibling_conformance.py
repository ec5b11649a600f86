"""`ballonet conform vmware` and `hyperv`: our hosts and drivers, and what the document shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.documents import block, masked, printed

from ballonet.conform.checks import Check, Level
from ballonet.conform.hyperv import suite as hyperv
from ballonet.conform.vmware import suite as vmware

BALLONET = str(Path(sys.executable).with_name("ballonet"))
DOCUMENT = Path("docs/conformance.md")
SUITES: dict[str, list[Check]] = {  # type: ignore[type-arg]
    "vmware": [*vmware.HOST_CHECKS, *vmware.GUEST_CHECKS],
    "hyperv": [*hyperv.HOST_CHECKS, *hyperv.GUEST_CHECKS],
}


def conform(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, "conform", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", SUITES)
def test_both_of_our_ends_pass_every_check(kind: str, tmp_path: Path) -> None:
    done = conform(kind, "--json", "--junit", str(tmp_path / "junit.xml"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert [row["id"] for row in results] == [check.id for check in SUITES[kind]]
    assert {row["verdict"] for row in results} == {"pass"}
    assert 'failures="0"' in (tmp_path / "junit.xml").read_text()


@pytest.mark.parametrize("kind", SUITES)
def test_every_check_has_an_id_of_its_own_and_words(kind: str) -> None:
    ids = [check.id for check in SUITES[kind]]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 60
    assert all(check.requirement and isinstance(check.level, Level) for check in SUITES[kind])


@pytest.mark.parametrize("kind", SUITES)
def test_the_document_shows_what_is_printed(kind: str, tmp_path: Path) -> None:
    shown = block(DOCUMENT, f"`ballonet conform {kind}`.")
    columns = len(shown.splitlines()[1])
    assert masked(printed(f"ballonet conform {kind}", tmp_path, columns)) == masked(shown)


def test_one_check_of_either_end_can_be_chosen_and_no_other_id() -> None:
    done = conform("vmware", "--only", "V-L1", "--only", "VG-D1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 pass, 0 fail, 0 n/a" in done.stdout
    for arguments in (("vmware", "--only", "Y-B1"), ("hyperv", "--linux", "--only", "Y-B1")):
        done = conform(*arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1

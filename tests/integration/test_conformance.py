"""Our device and our driver under our checks; and a device that is broken on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.device_under_test import running_device
from tests.support.wait import holds

from ballonet.balloon.page_ledger import PageLedger
from ballonet.conform.checks import Level, Verdict, run_checks
from ballonet.conform.device.suite import DEVICE_CHECKS
from ballonet.conform.device.vhost_user_rig import OwnRig
from ballonet.conform.driver.suite import DRIVER_CHECKS
from ballonet.device import inflation
from ballonet.device.hint_round import HintRound
from ballonet.device.pfns import given_pfns
from ballonet.device.poison import PagePoison
from ballonet.virtio.hint_ids import CMD_ID_STOP

MIB = 1 << 20
BALLONET = str(Path(sys.executable).with_name("ballonet"))


def conform(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, "conform", *arguments], capture_output=True, text=True, check=False
    )


def test_our_device_passes_every_check(tmp_path: Path) -> None:
    done = conform("device", "--json", "--junit", str(tmp_path / "junit.xml"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert len(results) == len(DEVICE_CHECKS)
    not_passed = {row["id"] for row in results if row["verdict"] != "pass"}
    assert not_passed == {"L-1", "L-2", "L-7"}  # vhost-user has no legacy interface
    assert 'failures="0"' in (tmp_path / "junit.xml").read_text()


def test_any_device_at_a_socket_can_be_checked(tmp_path: Path) -> None:
    with running_device(tmp_path / "device"):
        done = conform("device", "--vhost-user", str(tmp_path / "device"), "--only", "D-O1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 pass, 0 fail" in done.stdout


def test_our_driver_passes_every_check() -> None:
    done = conform("driver", "--embedded", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert len(results) == len(DRIVER_CHECKS)
    assert {row["verdict"] for row in results} == {"pass"}


@pytest.mark.parametrize("checks", [DEVICE_CHECKS, DRIVER_CHECKS])
def test_every_check_has_an_id_of_its_own_and_words(checks: tuple[object, ...]) -> None:
    ids = [check.id for check in checks]  # type: ignore[attr-defined]
    assert len(ids) == len(set(ids))
    for check in checks:
        assert check.requirement  # type: ignore[attr-defined]
        assert isinstance(check.level, Level)  # type: ignore[attr-defined]


def verdict(check_id: str) -> Verdict:
    (check,) = [one for one in DEVICE_CHECKS if one.id == check_id]
    (result,) = run_checks([check], OwnRig())
    return result.verdict


def test_a_device_that_ignores_poison_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PagePoison, "allows_discard", lambda _: True)
    assert verdict("D-R2") is Verdict.FAIL


def test_a_device_that_forgets_its_id_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HintRound, "shown_cmd_id", property(lambda _: CMD_ID_STOP))
    assert verdict("P-42") is Verdict.FAIL


def test_a_device_that_keeps_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageLedger, "sort", lambda _: 0)
    assert verdict("D-O1") is Verdict.FAIL


def test_a_device_that_obeys_a_huge_message_in_one_go_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slowly(raw: bytes, *, big_endian: bool = False) -> object:
        if len(raw) > MIB // 2:
            assert holds(lambda: True, 5)
        return given_pfns(raw, big_endian=big_endian)

    monkeypatch.setattr(inflation, "given_pfns", slowly)
    assert verdict("P-27") is Verdict.FAIL


def test_a_device_that_does_not_read_a_huge_message_is_no_evidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inflation, "MESSAGE_BYTES_MAX", MIB - 1)
    assert verdict("P-27") is Verdict.NOT_APPLICABLE


def test_a_report_that_cannot_be_written_is_refused_before_the_checks(tmp_path: Path) -> None:
    for place in (tmp_path / "missing" / "junit.xml", tmp_path):
        done = conform("device", "--junit", str(place))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert str(place) in done.stderr
        assert not done.stdout


def test_results_are_told_even_where_the_report_cannot_be_written() -> None:
    done = conform("device", "--only", "D-O1", "--junit", "/dev/full")
    assert done.returncode == 1
    assert "1 pass, 0 fail" in done.stdout
    assert done.stderr == "ballonet: writing /dev/full: No space left on device\n"


def test_wrong_use_is_one_line() -> None:
    for arguments in (
        ("device", "--qemu", "--vhost-user", "x"),
        ("device", "free-page-hint=off"),
        ("device", "--only", "nothing"),
        ("driver",),
    ):
        done = conform(*arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1

"""Checks of VMware's balloon: ours pass, and each one notices what it is there for."""

from __future__ import annotations

import pytest
from tests.support.vmware_faults import GUEST_FAULTS, HOST_FAULTS, broken_host

from ballonet.conform.checks import Verdict, run_checks
from ballonet.conform.vmware.embedded_rig import EmbeddedRig
from ballonet.conform.vmware.host_rig import OwnHostRig
from ballonet.conform.vmware.suite import GUEST_CHECKS, HOST_CHECKS
from ballonet.vmware import driver, inflation

HOSTS = {check.id: check for check in HOST_CHECKS}
GUESTS = {check.id: check for check in GUEST_CHECKS}
#: Faults that no call shows.
INSIDE = {"VG-M1", "VG-H5"}


def guest_verdict(check_id: str, rig: EmbeddedRig) -> tuple[Verdict, str]:
    (result,) = run_checks([GUESTS[check_id]], rig)
    return result.verdict, result.evidence


@pytest.mark.parametrize("check_id", HOSTS)
def test_our_host_passes(check_id: str) -> None:
    (result,) = run_checks([HOSTS[check_id]], OwnHostRig())
    assert result.verdict is Verdict.PASS, result.evidence


@pytest.mark.parametrize("check_id", GUESTS)
def test_our_driver_passes(check_id: str) -> None:
    assert guest_verdict(check_id, EmbeddedRig())[0] is Verdict.PASS


def test_every_check_has_a_fault_that_it_must_notice() -> None:
    assert set(HOST_FAULTS) == set(HOSTS)
    assert set(GUEST_FAULTS) | INSIDE == set(GUESTS)


@pytest.mark.parametrize("check_id", HOST_FAULTS)
def test_a_broken_host_is_found(check_id: str) -> None:
    (result,) = run_checks([HOSTS[check_id]], OwnHostRig(broken_host(HOST_FAULTS[check_id])))
    assert result.verdict is Verdict.FAIL


@pytest.mark.parametrize("check_id", GUEST_FAULTS)
def test_a_broken_driver_is_found(check_id: str) -> None:
    rig = EmbeddedRig(GUEST_FAULTS[check_id])
    assert guest_verdict(check_id, rig)[0] is Verdict.FAIL


def test_a_driver_that_grows_at_once_after_it_gave_way_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "SHRINK_DELAY_NS", 0)
    assert guest_verdict("VG-M1", EmbeddedRig())[0] is Verdict.FAIL


def test_a_driver_without_a_floor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflation, "_FLOOR_PART", 1 << 30)
    assert guest_verdict("VG-H5", EmbeddedRig())[0] is Verdict.FAIL

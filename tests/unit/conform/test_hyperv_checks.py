"""Checks of Hyper-V's Dynamic Memory: ours pass, and each one notices what it is there for."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.hyperv_faults import GUEST_FAULTS, HOST_FAULTS

from ballonet.conform.checks import Verdict, run_checks
from ballonet.conform.hyperv.embedded_rig import EmbeddedRig
from ballonet.conform.hyperv.host_rig import OwnHostRig
from ballonet.conform.hyperv.suite import GUEST_CHECKS, HOST_CHECKS
from ballonet.hyperv import balloon_worker
from ballonet.hyperv.balloon_worker import BalloonWorker
from ballonet.kernel.frames import Frames

HOSTS = {check.id: check for check in HOST_CHECKS}
GUESTS = {check.id: check for check in GUEST_CHECKS}
#: Faults that no message shows.
INSIDE = {"YG-B3", "YG-F1", "YG-M15"}


def guest_verdict(check_id: str, rig: EmbeddedRig) -> tuple[Verdict, str]:
    (result,) = run_checks([GUESTS[check_id]], rig)
    return result.verdict, result.evidence


@pytest.mark.parametrize("check_id", HOSTS)
def test_our_host_passes(check_id: str) -> None:
    (result,) = run_checks([HOSTS[check_id]], OwnHostRig())
    assert result.verdict is Verdict.PASS, result.evidence


@pytest.mark.parametrize("check_id", GUESTS)
def test_our_driver_passes(check_id: str) -> None:
    verdict, evidence = guest_verdict(check_id, EmbeddedRig())
    assert verdict is Verdict.PASS, evidence


def test_every_check_has_a_fault_that_it_must_notice() -> None:
    assert set(HOST_FAULTS) == set(HOSTS)
    assert set(GUEST_FAULTS) | INSIDE == set(GUESTS)


@pytest.mark.parametrize("check_id", HOST_FAULTS)
def test_a_broken_host_is_found(check_id: str) -> None:
    (result,) = run_checks([HOSTS[check_id]], OwnHostRig(HOST_FAULTS[check_id]))
    assert result.verdict is Verdict.FAIL


@pytest.mark.parametrize("check_id", GUEST_FAULTS)
def test_a_broken_driver_is_found(check_id: str) -> None:
    verdict, _ = guest_verdict(check_id, EmbeddedRig(GUEST_FAULTS[check_id]))
    assert verdict is Verdict.FAIL


def test_a_driver_that_gives_single_pages_alone_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BalloonWorker, "_take_blocks", lambda *_: np.empty(0, np.int64))
    assert guest_verdict("YG-B3", EmbeddedRig())[0] is Verdict.FAIL


def test_a_driver_without_a_floor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balloon_worker, "balloon_floor", lambda _: 0)
    assert guest_verdict("YG-F1", EmbeddedRig())[0] is Verdict.FAIL


def test_a_driver_that_loses_what_it_could_not_say_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle = BalloonWorker._settle

    def lose(self: BalloonWorker, frames: Frames, *, is_sent: bool) -> None:
        if is_sent:
            settle(self, frames, is_sent=True)

    monkeypatch.setattr(BalloonWorker, "_settle", lose)
    assert guest_verdict("YG-M15", EmbeddedRig())[0] is Verdict.FAIL

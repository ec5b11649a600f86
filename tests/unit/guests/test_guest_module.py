"""A module for a guest's kernel: what is missing is said before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.errors import GuestError
from ballonet.guests.guest_module import build_vmbus_stand_in


def test_a_kernel_without_headers_here_is_named_and_what_would_fetch_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GuestError, match=r"Linux 0\.1-none are not there; run: sh scripts"):
        build_vmbus_stand_in("0.1-none")
    assert not list(tmp_path.iterdir())

"""Minor faults stand behind a name that may look like anything."""

from __future__ import annotations

import os

import pytest

from ballonet.errors import GuestError
from ballonet.lab.page_faults import minor_faults, parse_minor_faults


def test_the_name_in_brackets_is_skipped_whatever_it_is() -> None:
    assert parse_minor_faults("77 (a (b) c 5 6) S 1 77 77 0 -1 4194560 1234 9 5 6 0 0") == 1234


def test_this_process_has_had_some_and_none_is_an_error() -> None:
    assert minor_faults(os.getpid()) > 0
    with pytest.raises(GuestError, match="cannot be looked into"):
        minor_faults(1 << 22)

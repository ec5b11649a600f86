"""A guest cannot fill the log."""

import logging

import pytest

from ballonet.runtime.quiet_log import QuietLog


def test_one_line_of_a_kind_in_a_second_and_the_rest_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_ns = 0
    quiet = QuietLog(logging.getLogger("quiet"), lambda: now_ns)
    for _ in range(1000):
        quiet.warn("pages", "bad page")
    quiet.warn("ring", "bad ring")
    assert caplog.messages == ["bad page", "bad ring"]
    now_ns = 999_999_999
    quiet.warn("pages", "bad page")
    assert len(caplog.messages) == 2
    now_ns = 1_000_000_000
    quiet.warn("pages", "bad page")
    assert caplog.messages[2:] == ["bad page (and 1000 more like it)"]

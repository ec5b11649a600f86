"""Results as programs read them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from ballonet.conform.checks import Level, Result, Verdict
from ballonet.conform.reports import as_junit


@pytest.mark.parametrize("verdict", list(Verdict))
def test_whatever_a_device_says_junit_is_xml(verdict: Verdict) -> None:
    said = "QEMU: \x00\x1b[31m<&\ud800>\nend"
    text = as_junit("a device", [Result("X-1", Level.MUST, "is well", verdict, said, 0.5)])
    suite = ET.fromstring(text.encode())  # noqa: S314 - our own words
    (case,) = suite
    assert case.get("name") == "X-1 is well"
    (child,) = case
    told = child.get("message") or child.text or ""
    assert told.split() == ["QEMU:", r"\x00\x1b[31m<&\ud800>", "end"]

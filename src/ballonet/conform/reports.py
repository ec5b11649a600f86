"""Results for programs: JSON, and JUnit's XML, which continuous integration reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from ballonet.conform.checks import Result, Verdict

__all__ = ["as_json", "as_junit"]


def as_json(subject: str, results: Sequence[Result]) -> str:
    """One object; a result for each check."""
    rows = [
        {
            "id": one.id,
            "level": one.level.value,
            "requirement": one.requirement,
            "verdict": one.verdict.value,
            "evidence": one.evidence,
            "seconds": one.seconds,
        }
        for one in results
    ]
    return json.dumps({"subject": subject, "results": rows}, indent=2)


def as_junit(subject: str, results: Sequence[Result]) -> str:
    """A test suite; what is not applicable is skipped."""
    failures = sum(one.verdict is Verdict.FAIL for one in results)
    skipped = sum(one.verdict is Verdict.NOT_APPLICABLE for one in results)
    suite = ET.Element(
        "testsuite",
        name=f"ballonet conform {subject}",
        tests=str(len(results)),
        failures=str(failures),
        skipped=str(skipped),
    )
    for one in results:
        case = ET.SubElement(
            suite, "testcase", classname=subject, name=f"{one.id} {one.requirement}"
        )
        case.set("time", f"{one.seconds:.3f}")
        if one.verdict is Verdict.FAIL:
            ET.SubElement(case, "failure", message=_legal(one.evidence))
        elif one.verdict is Verdict.NOT_APPLICABLE:
            ET.SubElement(case, "skipped", message=_legal(one.evidence))
        else:
            ET.SubElement(case, "system-out").text = _legal(one.evidence)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _legal(text: str) -> str:
    """A text without the characters that XML does not have: a device's words may hold any."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)

"""Events of several ends on one clock: in order, printed, as a trace, as a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

from ballonet.lab.time_line import Event, as_perfetto, as_text, collapsed, merged
from ballonet.lab.time_line_picture import as_svg

WE = [Event(1_000_000, "we", "send balloon", "240.0 MiB", lasts_ns=500_000)]
GUEST = [
    Event(4_000_000, "guest", "alloc"),
    Event(2_500_000, "interrupt", "changed", stack=("changed", "vp_interrupt")),
    Event(4_250_000, "guest", "alloc"),
    Event(9_000_000, "guest", "tell_host <&>"),
]
QEMU = [Event(4_250_000, "QEMU", "message")]


def test_all_ends_are_merged_by_time() -> None:
    names = [event.name for event in merged(WE, GUEST, QEMU)]
    assert names == ["send balloon", "changed", "alloc", "alloc", "message", "tell_host <&>"]


def test_what_one_end_repeats_is_one_event_whatever_others_do() -> None:
    one, *others = collapsed(merged(GUEST))[1:]
    assert (one.name, one.times, one.at_ns, one.lasts_ns) == ("alloc", 2, 4_000_000, 250_000)
    assert [event.name for event in others] == ["tell_host <&>"]
    between = collapsed([GUEST[0], *QEMU, GUEST[2]])
    assert [(event.name, event.times) for event in between] == [("alloc", 2), ("message", 1)]
    again = [GUEST[0], GUEST[3], GUEST[2]]
    assert collapsed(again) == again, "it did something else between"
    late = [GUEST[0], replace(GUEST[0], at_ns=5_000_001)]
    assert collapsed(late) == late, "they are further apart than a millisecond"
    assert [event.times for event in collapsed(late, within_ns=1_000_001)] == [2]
    other = [GUEST[0], replace(GUEST[0], detail="another")]
    assert collapsed(other) == other


def test_it_is_printed_in_milliseconds_since_the_first() -> None:
    assert as_text(collapsed(merged(WE, GUEST))) == (
        "     0.000 ms  we         send balloon 240.0 MiB\n"
        "     1.500 ms  interrupt  changed\n"
        "     3.000 ms  guest      alloc (2 times)\n"
        "     8.000 ms  guest      tell_host <&>"
    )
    assert as_text([]) == ""


def test_perfetto_reads_a_track_an_end_with_microseconds() -> None:
    found = json.loads(as_perfetto(collapsed(merged(WE, GUEST))))["traceEvents"]
    names = {row["tid"]: row["args"]["name"] for row in found if row["ph"] == "M"}
    assert list(names.values()) == ["we", "interrupt", "guest"]
    sent, changed, alloc, told = (row for row in found if row["ph"] != "M")
    assert (names[sent["tid"]], sent["ph"], sent["ts"], sent["dur"]) == ("we", "X", 0, 500)
    assert (changed["ph"], changed["ts"]) == ("i", 1500)
    assert changed["args"] == {"stack": ["changed", "vp_interrupt"]}
    assert alloc["args"] == {"times": 2}
    assert told["ts"] == 8000
    assert json.loads(as_perfetto([]))["traceEvents"] == []


def test_the_picture_is_well_formed_and_has_every_event_below_the_one_before() -> None:
    events = collapsed(merged(WE, GUEST))
    root = ET.fromstring(as_svg("what & when", events))  # noqa: S314 - we have made it
    space = {"svg": "http://www.w3.org/2000/svg"}
    dots = root.findall("svg:circle", space)
    assert len(dots) == len(events)
    heights = [int(dot.attrib["cy"]) for dot in dots]
    assert heights == sorted(set(heights))
    assert len({dot.attrib["cx"] for dot in dots}) == len({event.end for event in events})
    said = [text.text or "" for text in root.findall("svg:text", space)]
    assert "what & when" in said
    assert "tell_host <&>" in said
    assert "3.000 ms" in said
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    assert all(0 < int(dot.attrib["cx"]) < width for dot in dots)
    assert max(heights) < height


def test_a_picture_of_nothing_and_a_long_text_are_no_trouble() -> None:
    ET.fromstring(as_svg("nothing", []))  # noqa: S314
    assert f"{'x' * 43}…" in as_svg("long", [Event(0, "we", "x" * 80)])

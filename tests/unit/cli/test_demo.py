"""What the demonstration says of its figures."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from ballonet.cli.demo import Figures, GuestView, figures_table, moments
from ballonet.guests.ballooned import Resized

VIEW = GuestView(1 << 30, 1 << 30)
FIGURES = Figures(
    guest_release="6.1",
    guest_name="Linux 6.1",
    guest_memory_bytes=1 << 30,
    target_bytes=768 << 20,
    host_bytes_before=900 << 20,
    host_bytes_inflated=132 << 20,
    host_bytes_after=900 << 20,
    inflate_seconds=0.25,
    host_has_it_seconds=1.5,
    host_waiting_bytes=0,
    deflate_seconds=0.125,
    inflate_cpu_seconds=0.5,
    discard_calls=768,
    guest_before=VIEW,
    guest_inflated=VIEW,
    guest_after=VIEW,
)


def printed(figures: Figures) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(figures_table(figures))
    return capture.get()


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if name in line]
    return " ".join(line.replace("│", " ").split()).removeprefix(name).strip()


def test_speed_is_reckoned_to_the_moment_the_host_had_its_memory() -> None:
    text = printed(FIGURES)
    assert row(text, "the guest was done after") == "0.25 s 0.12 s"
    assert row(text, "the host had it after") == "1.50 s"
    assert row(text, "how fast") == "512.0 MiB/s"


def test_memory_that_still_waits_gives_no_speed() -> None:
    text = printed(replace(FIGURES, host_has_it_seconds=None, host_waiting_bytes=3 << 20))
    assert row(text, "the host had it after") == "never, 3.0 MiB wait"
    assert "how fast" not in text


def test_both_moments_are_told() -> None:
    result = Resized(0.25, 1.5, 196_608, 196_608, 0)
    assert moments(result) == (
        "the guest was done after 0.25 s, the host had its memory after 1.50 s"
    )
    late = replace(result, host_seconds=None, waiting_bytes=3 << 20)
    assert moments(late) == (
        "the guest was done after 0.25 s; of that 3.0 MiB still wait to be freed"
    )

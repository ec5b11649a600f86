"""Names that others give their machines, in a real Prometheus."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import generate_latest
from tests.support.prometheus import Prometheus, promtool
from tests.support.rounds import machine, round_of
from tests.support.strange_names import STRANGE_NAMES
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.agent.metrics import Metrics
from ballonet.agent.server import MetricsServer


def test_a_scrape_with_fifty_strange_names_and_their_doubles_is_taken_whole(tmp_path: Path) -> None:
    metrics = Metrics()
    at_s = time.monotonic()
    found = [machine(name, at_s, pid=pid) for name in STRANGE_NAMES for pid in (7, 7, None)]
    metrics.take(round_of(*found, ended_s=at_s))
    server = MetricsServer("127.0.0.1:0", metrics.registry, lambda: True)
    server.begin()
    try:
        with Prometheus(tmp_path / "prometheus", server.url) as prometheus:
            wait_until(
                lambda: prometheus.value("count(ballonet_vm_up)") == 3 * len(STRANGE_NAMES),
                PATIENCE_S,
                "not all of them are there",
                every_s=0.2,
            )
            assert prometheus.value('up{job="ballonet"}') == 1
    finally:
        server.close()


def test_the_text_of_such_a_scrape_is_correct_in_the_eyes_of_promtool() -> None:
    metrics = Metrics()
    at_s = time.monotonic()
    metrics.take(round_of(*(machine(name, at_s) for name in STRANGE_NAMES), ended_s=at_s))
    checked = promtool("check", "metrics", text=generate_latest(metrics.registry).decode())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

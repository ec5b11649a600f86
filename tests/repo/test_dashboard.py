"""The dashboard, and the tables of docs/agent.md, are what the source says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def printed(script: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return str(done.stdout)


def test_the_dashboard_is_what_its_script_prints() -> None:
    made = ROOT / "packaging" / "grafana" / "ballonet.json"
    assert made.read_text(encoding="utf-8") == printed("dashboard")


def test_the_agent_s_page_has_every_key_and_every_metric() -> None:
    page = (ROOT / "docs" / "agent.md").read_text(encoding="utf-8")
    tables = printed("agent-tables").strip().split("\n\n")
    assert len(tables) == 3
    for table in tables:
        assert table in page

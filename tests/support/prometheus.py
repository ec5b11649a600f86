"""A real Prometheus that scrapes one agent each second, and the tool beside it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

from tests.support.wait import PATIENCE_S, wait_until

_CONFIGURATION: Final = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files: {rules}
scrape_configs:
  - job_name: ballonet
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """The program; a context manager."""

    def __init__(self, folder: Path, scraped_url: str, rules: Path | None = None) -> None:
        folder.mkdir()
        self._log_path = folder / "log"
        rule_files = "[]" if rules is None else json.dumps([str(rules)])
        text = _CONFIGURATION.format(rules=rule_files, target=urlsplit(scraped_url).netloc)
        (folder / "prometheus.yml").write_text(text, encoding="utf-8")
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        try:
            wait_until(self._is_ready, PATIENCE_S, "Prometheus does not start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression returns now."""
        data = self._api("query", query=expression)
        result: list[dict[str, Any]] = data["result"]
        return result

    def value(self, expression: str) -> float | None:
        """Of an expression that returns one series, or none."""
        result = self.query(expression)
        assert len(result) < 2, result
        return float(result[0]["value"][1]) if result else None

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, as it was last evaluated."""
        return [rule for group in self._api("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> dict[tuple[str, str], Mapping[str, str]]:
        """The annotations of every alert that fires, by its name and its VM."""
        return {
            (one["labels"]["alertname"], one["labels"].get("vm", "")): one["annotations"]
            for one in self._api("alerts")["alerts"]
            if one["state"] == "firing"
        }

    def _api(self, what: str, **arguments: str) -> Any:  # noqa: ANN401 - JSON
        url = f"{self._url}/api/v1/{what}?{urlencode(arguments)}"
        with urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - http
            return json.load(answer)["data"]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log_path.read_text()
        try:
            with urlopen(f"{self._url}/-/ready", timeout=PATIENCE_S) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except URLError:
            return False


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Prometheus's own checks."""
    return subprocess.run(
        ["promtool", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def _free_port() -> int:
    """One that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

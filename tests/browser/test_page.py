"""The page in a real Chromium, over four real kernels under the autopilot."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from tests.integration.host_under_test import HostProcess, running
from tests.support.agent_process import AgentProcess, agent, configuration
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings

MIB: Final = 1 << 20
MEMORY_BYTES: Final = 192 * MIB
NAMES: Final = ("page-a", "page-b", "page-c", "page-d")
BUDGET_BYTES: Final = 512 * MIB
TOKEN: Final = "0123456789abcdef-of-a-test"  # noqa: S105 - of nothing else
PATIENCE_MS: Final = PATIENCE_S * 1000
WEIGHT_BYTES_MOST: Final = 150_000
PICTURES: Final = Path("build/page")
#: 10 MiB/s of memory that only swap could take.
BURST: Final = """n=0
while [ $n -lt 80 ]; do
    yes 0123456789abcde | head -c 4m >> /tmp/burst
    n=$((n + 4))
    usleep 200000
done"""


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[HostProcess, dict[str, LinuxGuest]]]:
    """A host of four kernels."""
    with running(tmp_path_factory.mktemp("host") / "host") as host, ExitStack() as stack:
        settings = [LinuxGuestSettings(MEMORY_BYTES, socket_path=host.add(name)) for name in NAMES]
        with ThreadPoolExecutor(len(NAMES)) as together:
            guests = list(together.map(lambda one: stack.enter_context(LinuxGuest(one)), settings))
        yield host, dict(zip(NAMES, guests, strict=True))


@pytest.fixture(scope="module")
def pilot(
    fleet: tuple[HostProcess, dict[str, LinuxGuest]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    """The agent, whose autopilot acts, with a page that may be used."""
    folder = tmp_path_factory.mktemp("agent")
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(f"{TOKEN}\n")
    text = configuration(NAMES, period_s=1.0, poll_interval_s=1) + (
        f'[autopilot]\nenable = true\nbudget = "{BUDGET_BYTES}B"\n'
        f'[web]\nlisten = "127.0.0.1:0"\ntoken_file = "{token}"\n'
    )
    host, _ = fleet
    with agent(folder, text) as watcher:
        watcher.until(lambda: kept_together(host) <= BUDGET_BYTES, "they keep more than there is")
        yield watcher


def kept_together(host: HostProcess) -> int:
    return sum(int(row["memory"]) - int(row["actual"] or 0) for row in host.rows().values())


def asked_to_keep(host: HostProcess, name: str) -> int:
    row = host.rows()[name]
    return int(row["memory"]) - int(row["target"])


def url_of(pilot: AgentProcess) -> str:
    line = next(one for one in pilot.log() if "the page is at" in one)
    return line.rpartition(" ")[2]


@contextmanager
def opened(
    browser: Browser,
    pilot: AgentProcess,
    **options: Any,  # noqa: ANN401 - of a context of Playwright's
) -> Iterator[Page]:
    """The page, with all machines; nothing on it may have gone wrong."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if is_fault(said) else None)
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(url_of(pilot)) else faults.append(request.url)
        ),
    )
    page.goto(url_of(pilot))
    expect(page.locator("#rows tr")).to_have_count(len(NAMES), timeout=PATIENCE_MS)
    expect(page.locator("figure canvas")).to_have_count(len(NAMES), timeout=PATIENCE_MS)
    yield page
    assert faults == []
    context.close()


def is_fault(said: ConsoleMessage) -> bool:
    """That what somebody asked for is refused is none."""
    return said.type == "error" and "409 (Conflict)" not in said.text


def picture_of(page: Page, name: str) -> str:
    """What a machine's chart shows now."""
    chart = page.locator("figure", has_text=f"ballonet:{name}").locator("canvas")
    return str(chart.evaluate("one => one.toDataURL()"))


def test_a_burst_and_its_grant_are_seen_as_they_come(
    browser: Browser,
    pilot: AgentProcess,
    fleet: tuple[HostProcess, dict[str, LinuxGuest]],
    record_property: Callable[[str, object], None],
) -> None:
    _, guests = fleet
    with opened(browser, pilot) as page, ThreadPoolExecutor(1) as beside:
        before = picture_of(page, "page-a")
        done = beside.submit(guests["page-a"].check, BURST, PATIENCE_S)
        grant = page.locator("#decisions li", has_text="ballonet:page-a from").first
        expect(grant).to_contain_text("its use has just risen", timeout=PATIENCE_MS)
        seen_s = time.time()
        decided = json.loads(state(pilot))["decisions"]
        newest = next(one for one in decided if one["vm"] == "ballonet:page-a")
        record_property("seen on the page after its decision, s", f"{seen_s - newest['at_s']:.2f}")
        assert newest["to_bytes"] > newest["from_bytes"]
        wait_until(lambda: picture_of(page, "page-a") != before, PATIENCE_S, "its chart stands")
        done.result()
        guests["page-a"].check("rm -f /tmp/burst")


def state(pilot: AgentProcess) -> str:
    with urlopen(f"{url_of(pilot)}api/state", timeout=PATIENCE_S) as answer:  # noqa: S310 - http
        return str(answer.read().decode())


def test_a_size_that_is_set_on_the_page_arrives(
    browser: Browser, pilot: AgentProcess, fleet: tuple[HostProcess, dict[str, LinuxGuest]]
) -> None:
    host, _ = fleet
    with opened(browser, pilot) as page:
        page.fill("#token", TOKEN)
        page.click("#token-form button")
        page.click("button.name:has-text('page-b')")
        page.fill("#size", "100M")
        page.click("#size-form button:has-text('Set')")
        expect(page.locator("#because")).to_contain_text("pause it for it first")
        page.click("#pause")
        expect(page.locator("#pause")).to_have_text("Leave it to the autopilot")
        page.click("#size-form button:has-text('Set')")
        wait_until(
            lambda: asked_to_keep(host, "page-b") == 100 * MIB, PATIENCE_S, "it is not asked"
        )
        page.click("#close")
        records = page.locator("#records li")
        expect(records.filter(has_text="size 100.0 MiB: reached")).to_have_count(1)
        page.click("button.name:has-text('page-b')")
        page.click("#pause")
        expect(page.locator("#pause")).to_have_text("Leave it to me")


def test_without_the_right_token_nothing_is_changed(browser: Browser, pilot: AgentProcess) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url_of(pilot))
    page.fill("#token", "another-token-than-that")
    page.click("#token-form button")
    page.click("#release")
    expect(page.locator("#said")).to_have_text("the token is wrong, or missing")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_everybody_can_use_it_and_nothing_is_cut(
    browser: Browser,
    pilot: AgentProcess,
    width: int,
    scheme: str,
    record_property: Callable[[str, object], None],
) -> None:
    size = {"width": width, "height": 1000}
    with opened(browser, pilot, viewport=size, color_scheme=scheme, bypass_csp=True) as page:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"page-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        serious(page)
        paint_ms = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        record_property(f"first paint at {width}, ms", round(paint_ms))
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the machines"
        page.locator("button.name").first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#machine")).to_be_visible()
        page.screenshot(path=PICTURES / f"machine-{width}-{scheme}.png")
        serious(page)
        page.keyboard.press("Escape")
        expect(page.locator("#machine")).not_to_be_visible()


def serious(page: Page) -> None:
    """What axe finds that keeps somebody from using the page."""
    script = files("axe_playwright_python") / "axe.min.js"
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(found => found.violations)")
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_page_is_light_and_asks_nobody_else(
    pilot: AgentProcess, record_property: Callable[[str, object], None]
) -> None:
    def got(path: str) -> bytes:
        with urlopen(f"{url_of(pilot)}{path}", timeout=PATIENCE_S) as answer:  # noqa: S310 - http
            return bytes(answer.read())

    index = got("").decode()
    parts = re.findall(r'(?:src|href)="/([^"]+\.(?:js|css|svg))"', index)
    assert len(parts) == 5
    weight = len(index) + sum(len(got(part)) for part in parts)
    record_property("weight of the page, bytes", weight)
    assert weight <= WEIGHT_BYTES_MOST
    assert not re.search(r'(?:src|href)="(?:https?:)?//', index)

"""The agent's configuration file: what it sets, and one line on what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.agent.configuration import (
    AgentSettings,
    Configuration,
    MetricsSettings,
    configuration_keys,
    listen_address,
    parse_configuration,
    read_configuration,
    show_configuration,
)
from ballonet.errors import SettingsError

WHOLE = """\
# of this host
[agent]
period_s = 5
poll_interval_s = 0
match = [
    "web*",  # ours
    "qemu:db",
]
exclude = ["web-test"]

[metrics]
listen = "[::1]:9000"
"""


def test_a_file_sets_what_it_says_and_leaves_the_rest() -> None:
    assert parse_configuration(WHOLE, "f") == Configuration(
        AgentSettings(5.0, 0, ("web*", "qemu:db"), ("web-test",)), MetricsSettings("[::1]:9000")
    )
    assert parse_configuration("", "f") == Configuration()
    partly = parse_configuration("agent.period_s = 0.5", "f")
    assert (partly.agent.period_s, partly.agent.poll_interval_s) == (0.5, 2)


def test_what_is_shown_can_be_read_again() -> None:
    for text in ("", WHOLE):
        configuration = parse_configuration(text, "f")
        shown = "\n".join(show_configuration(configuration))
        assert parse_configuration(shown, "f") == configuration


WRONG = [
    # file, line and key that are named, what is said
    (
        "[agent]\nperoid_s = 2",
        "f:2: key in [agent]: got 'peroid_s', expected one of period_s (nearest)",
    ),
    ("[agnet]\nperiod_s = 2", "f:1: table: got 'agnet', expected one of agent (nearest), metrics"),
    (
        "\n\nmetrix.listen = 'a:1'",
        "f:3: table: got 'metrix', expected one of agent, metrics (nearest)",
    ),
    ("[agent]\n\n# x\nperiod_s = 'often'", "f:4: agent.period_s: got 'often', expected 0.5 to"),
    ("[agent]\nperiod_s = 0.1", "f:2: agent.period_s: got 0.1, expected 0.5 to 3600"),
    ("[agent]\nperiod_s = nan", "f:2: agent.period_s: got nan, expected 0.5 to 3600"),
    ("[agent]\nperiod_s = inf", "f:2: agent.period_s: got inf, expected 0.5 to 3600"),
    ("[agent]\nperiod_s = true", "f:2: agent.period_s: got True, expected 0.5 to 3600"),
    ("agent.poll_interval_s = 1.5", "f:1: agent.poll_interval_s: got 1.5, expected a whole number"),
    ("agent.poll_interval_s = -1", "f:1: agent.poll_interval_s: got -1, expected a whole number"),
    ("[agent]\nmatch = 'web*'", "f:2: agent.match: got 'web*', expected a list of patterns"),
    ("[agent]\nmatch = [\n1,\n'a']", "f:2: agent.match: got [1, 'a'], expected a list of"),
    ("[agent]\nexclude = ['']", "f:2: agent.exclude: got [''], expected a list of patterns"),
    ("agent = 3", "f:1: agent: got 3, expected a table of settings"),
    ("[metrics]\nlisten = '9177'", "f:2: metrics.listen: got '9177', expected an address and a"),
    ("[metrics]\nlisten = ':9177'", "f:2: metrics.listen: got ':9177', expected an address"),
    ("[metrics]\nlisten = 'a:65536'", "f:2: metrics.listen: got 'a:65536', expected an address"),
    ('[metrics]\nlisten = "a:1\\n"', "f:2: metrics.listen: got 'a:1\\n', expected an address"),
    ("[metrics]\nlisten = 9177", "f:2: metrics.listen: got 9177, expected an address and a port"),
    ("[metrics]\n[agent]\nperiod_s 2", "f:3: got 'period_s 2', expected TOML (expected '='"),
    ("[agent]\nmatch = [\n'a',\n", "f:3: got \"'a',\", expected TOML ("),
    ("[agent]\nperiod_s = 2\nperiod_s = 3\n", "f:3: got 'period_s = 3', expected TOML ("),
    ("[metrics]\nlisten = '''\nperoid_s = 2\n'''", "f:2: metrics.listen: got '"),
    ("[agent]\nperiod_s = 07:00:00", "f:2: agent.period_s: got datetime.time(7, 0), expected"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_one_line_with_file_line_and_key(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_configuration(text, "f")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_long_wrong_value_is_cut() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_configuration(f"agent.match = '{'x' * 5000}'", "f")
    assert len(str(caught.value)) < 200


def test_only_the_file_at_the_default_path_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ballonet.toml"
    monkeypatch.setattr("ballonet.agent.configuration.DEFAULT_PATH", path)
    assert read_configuration(None) == Configuration()
    with pytest.raises(SettingsError, match="--config"):
        read_configuration(path)
    path.write_bytes(b"[agent]\n# \xe9\n")
    with pytest.raises(SettingsError, match=r"ballonet\.toml:2: got .* expected UTF-8"):
        read_configuration(None)
    path.write_text("#" * (1 << 21))
    with pytest.raises(SettingsError, match=r"ballonet\.toml: got 'more than"):
        read_configuration(None)


def test_host_and_port_are_told_apart() -> None:
    assert listen_address("127.0.0.1:9177") == ("127.0.0.1", 9177)
    assert listen_address("[::1]:0") == ("::1", 0)


def test_every_key_says_what_it_means_and_allows() -> None:
    keys = list(configuration_keys())
    assert [key.name for key in keys] == [
        "period_s", "poll_interval_s", "match", "exclude", "listen",
        "enable", "mode", "reserve", "budget", "record_rounds", "listen", "token_file",
        "min", "weight", "exclude",
    ]  # fmt: skip
    assert all(key.meaning and key.allowed for key in keys)

"""URIs as people write them."""

import pytest

from ballonet.errors import SettingsError
from ballonet.migration.channel_uri import (
    ChannelUri,
    FdUri,
    FileUri,
    TcpUri,
    UnixUri,
    parse_uri,
)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("unix:/run/a:b", UnixUri("/run/a:b")),
        ("tcp:host.example:4444", TcpUri("host.example", 4444)),
        ("tcp:127.0.0.1:0", TcpUri("127.0.0.1", 0)),
        ("tcp:[::1]:65535", TcpUri("::1", 65535)),
        ("fd:17", FdUri(17)),
        ("file:a b", FileUri("a b")),
    ],
)
def test_a_uri_is_understood(uri: str, meant: ChannelUri) -> None:
    assert parse_uri(uri) == meant


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "unix",
        "unix:",
        "unix:/a\0b",
        "tcp:4444",
        "tcp::4444",
        "tcp:host:",
        "tcp:host:65536",
        "tcp:host:-1",
        "tcp:host:٣",
        "tcp:::1:4444",
        "tcp:[::1]",
        "fd:",
        "fd:-1",
        "fd:name",
        "exec:cat",
        "rdma:host:1",
        "UNIX:/a",
    ],
)
def test_what_is_none_is_refused_and_the_forms_are_named(uri: str) -> None:
    with pytest.raises(SettingsError, match="unix:PATH") as caught:
        parse_uri(uri)
    assert "\n" not in str(caught.value)

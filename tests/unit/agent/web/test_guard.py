"""Who may ask the page for what, without any server."""

from __future__ import annotations

import pytest

from ballonet.agent.web.guard import Guard, RefusedError, is_loopback

TOKEN = "0123456789abcdef"  # noqa: S105 - of nothing else
GUARD = Guard("127.0.0.1", 9178, TOKEN)
RIGHT = {
    "Host": "127.0.0.1:9178",
    "Authorization": f"Bearer {TOKEN}",
    "Content-Type": "application/json; charset=utf-8",
}


def status(guard: Guard, method: str, headers: dict[str, str]) -> int:
    try:
        guard.check_host(headers)
        if method == "POST":
            guard.check_change(headers)
    except RefusedError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9178", "localhost:9178", "[::1]:9178", "LOCALHOST:9178"]
)
def test_its_own_names_are_known(host: str) -> None:
    assert status(GUARD, "GET", {"Host": host}) == 200


@pytest.mark.parametrize(
    "host", ["", "127.0.0.1", "127.0.0.1:80", "evil.example:9178", "localhost"]
)
def test_another_name_is_another_s_page(host: str) -> None:
    assert status(GUARD, "GET", {"Host": host}) == 421


def test_the_page_itself_may_change_things() -> None:
    assert status(GUARD, "POST", RIGHT) == 200
    origin = {**RIGHT, "Origin": "http://127.0.0.1:9178", "Sec-Fetch-Site": "same-origin"}
    assert status(GUARD, "POST", origin) == 200


def test_what_has_no_content_needs_no_kind_of_it() -> None:
    bare = {name: value for name, value in RIGHT.items() if name != "Content-Type"}
    assert status(GUARD, "POST", bare) == 200
    assert status(GUARD, "POST", {**bare, "Content-Length": "2"}) == 415
    assert status(GUARD, "POST", {**bare, "Transfer-Encoding": "chunked"}) == 415


def test_where_everybody_can_connect_any_name_is_right_and_the_token_still_wanted() -> None:
    guard = Guard("0.0.0.0", 9178, TOKEN)  # noqa: S104 - nobody listens
    assert status(guard, "GET", {"Host": "host.example:9178"}) == 200
    assert status(guard, "POST", {**RIGHT, "Authorization": "Bearer x"}) == 401


def test_without_a_token_nobody_changes_anything() -> None:
    assert (
        status(Guard("127.0.0.1", 9178, ""), "POST", {**RIGHT, "Authorization": "Bearer "}) == 403
    )


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - nobody listens
        ("::", False), ("10.0.0.1", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_only_addresses_of_this_machine_are_the_loopback(host: str, *, is_one: bool) -> None:
    assert is_loopback(host) is is_one

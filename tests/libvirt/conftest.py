"""A real libvirtd with three domains for these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.support.libvirt_session import LibvirtSession, missing_program
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import GuestError
from ballonet.guests.qemu_kernel import find_qemu_kernel

NAMES = ("lv-web", "lv-db", "lv-mail")


@dataclass(frozen=True, slots=True)
class Domains:
    """Three that run, of 256 MiB each, and nobody asks them for statistics."""

    session: LibvirtSession

    @property
    def names(self) -> Sequence[str]:
        """All of them."""
        return NAMES

    @property
    def uri(self) -> str:
        """Of their connection."""
        return self.session.uri

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to find them."""
        return self.session.environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs libvirt."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.libvirt)


@pytest.fixture(scope="session")
def libvirt_session() -> Iterator[LibvirtSession]:
    """A machine without libvirt skips these tests aloud, or fails where they are required."""
    try:
        find_qemu_kernel()
        missing = missing_program()
    except GuestError as error:
        missing = str(error)
    if missing is not None:
        if "libvirt" in os.environ.get("BALLONET_REQUIRE", "").split(","):
            pytest.fail(f"libvirt is required: {missing} is missing")
        pytest.skip(f"no libvirt to test against: {missing} is missing")
    with LibvirtSession() as session:
        yield session


@pytest.fixture(scope="session")
def running_domains(libvirt_session: LibvirtSession) -> Domains:
    """Booted once."""
    for name in NAMES:
        libvirt_session.begin(name)
    for name in NAMES:
        libvirt_session.wait_until_ready(name)
    return Domains(libvirt_session)


@pytest.fixture
def domains(running_domains: Domains) -> Iterator[Domains]:
    """As every test finds them; one that leaves them otherwise fails."""
    yield running_domains
    session = running_domains.session
    session.start()  # where a test has failed while it was away
    left = {name: (session.period_s(name), session.virsh("domstate", name)) for name in NAMES}
    for name in NAMES:
        session.virsh("setmem", name, "256M", "--live")
    for name in NAMES:
        message = f"{name} does not take its memory again"
        wait_until(partial(session.has_all, name), PATIENCE_S, message)
    assert {(period_s, state.strip()) for period_s, state in left.values()} == {(0, "running")}

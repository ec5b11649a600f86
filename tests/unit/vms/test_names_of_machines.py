"""What machines are called, and which of them a pattern means."""

from __future__ import annotations

import pytest

from ballonet.vms.addresses import find_matching
from ballonet.vms.observation import MachineId
from ballonet.vms.sighting import Sighting
from ballonet.vms.socket_names import name_of_socket


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/run/vm1.qmp", "vm1"),
        ("/run/vm1/qmp", "vm1"),
        ("/run/vm1/monitor.sock", "vm1"),
        ("/run/firecracker.socket", "run"),
        ("qmp", "qmp"),
        ("/run/we\x1bb.api", "we�b"),
    ],
)
def test_a_machine_is_called_as_its_socket_or_its_folder(path: str, name: str) -> None:
    assert name_of_socket(path) == name


def test_a_pattern_means_names_and_kinds_with_names() -> None:
    seen = [
        Sighting(MachineId(kind, name))
        for kind, name in (("qemu", "web1"), ("ballonet", "web2"), ("firecracker", "db"))
    ]

    def matching(pattern: str) -> list[str]:
        return [one.who.name for one in find_matching(seen, pattern)]

    assert matching("web*") == ["web1", "web2"]
    assert matching("qemu:*") == ["web1"]
    assert matching("*") == ["web1", "web2", "db"]
    assert matching("WEB*") == []

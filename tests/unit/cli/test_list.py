"""The table of all machines, at every width."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from ballonet.cli.list import list_lines
from ballonet.vms.discovery import Found
from ballonet.vms.observation import Aged, HostMemory, MachineId, Observation
from ballonet.vms.sighting import Sighting

MIB = 1 << 20
TAKEN = "its monitor serves one client at a time, and libvirtd, process 812 has it"


def found(kind: str, name: str, path: str, why_not: str = "", **known: object) -> Found:
    who = MachineId(kind, name, path, 7)
    look = Observation(who, 0.0, **known)  # type: ignore[arg-type]
    return Found(Sighting(who, path, why_not), look, why_not)


MACHINES = [
    found(
        "ballonet",
        "web",
        "/run/ballonet/web.qmp",
        memory_bytes=4096 * MIB,
        actual_bytes=1024 * MIB,
        statistics={"avail": Aged(300 * MIB, 1.0)},
        host=HostMemory(900 * MIB),
        has_driver=True,
    ),
    found(
        "cloud-hypervisor",
        "a-machine-with-a-very-long-name-of-its-own",
        "/run/ch/api",
        memory_bytes=512 * MIB,
        actual_bytes=512 * MIB,
        paused=True,
    ),
    found("qemu", "数据库", "", TAKEN, memory_bytes=2048 * MIB, host=HostMemory(1999 * MIB)),
]
#: Looked at in a terminal of these widths.
SHOWN = {
    60: """\
name              memory       keeps   available  host holds
web              4.0 GiB     1.0 GiB   300.0 MiB   900.0 MiB
  ballonet: /run/ballonet/web.qmp
a-machine-w…   512.0 MiB   512.0 MiB           ?           ?
  cloud-hypervisor:
  a-machine-with-a-very-long-name-of-its-own, /run/ch/api,
  paused
数据库           2.0 GiB           ?           ?     2.0 GiB
  qemu: not reached: its monitor serves one client at a
  time, and libvirtd, process 812 has it
""",
    80: """\
name                              memory       keeps   available  host holds
web                              4.0 GiB     1.0 GiB   300.0 MiB   900.0 MiB
  ballonet: /run/ballonet/web.qmp
a-machine-with-a-very-long-…   512.0 MiB   512.0 MiB           ?           ?
  cloud-hypervisor: a-machine-with-a-very-long-name-of-its-own, /run/ch/api,
  paused
数据库                           2.0 GiB           ?           ?     2.0 GiB
  qemu: not reached: its monitor serves one client at a time, and libvirtd,
  process 812 has it
""",
    120: """\
name                              memory       keeps   available  host holds
web                              4.0 GiB     1.0 GiB   300.0 MiB   900.0 MiB
  ballonet: /run/ballonet/web.qmp
a-machine-with-a-very-long-…   512.0 MiB   512.0 MiB           ?           ?
  cloud-hypervisor: a-machine-with-a-very-long-name-of-its-own, /run/ch/api, paused
数据库                           2.0 GiB           ?           ?     2.0 GiB
  qemu: not reached: its monitor serves one client at a time, and libvirtd, process 812 has it
""",
    140: """\
name                              memory       keeps   available  host holds  kind              reached
web                              4.0 GiB     1.0 GiB   300.0 MiB   900.0 MiB  ballonet          /run/ballonet/web.qmp
a-machine-with-a-very-long-…   512.0 MiB   512.0 MiB           ?           ?  cloud-hypervisor  a-machine-with-a-very-long-name-of-its-own,
                                                                                                /run/ch/api, paused
数据库                           2.0 GiB           ?           ?     2.0 GiB  qemu              not reached: its monitor serves one client
                                                                                                at a time, and libvirtd, process 812 has it
""",  # noqa: E501 - as wide as it is
}


@pytest.mark.parametrize("columns", SHOWN)
def test_it_looks_as_it_was_looked_at(columns: int) -> None:
    assert "\n".join([*list_lines(MACHINES, columns), ""]) == SHOWN[columns]


@pytest.mark.parametrize("columns", range(60, 201))
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    lines = list(list_lines(MACHINES, columns))
    assert max(cell_len(line) for line in lines) <= columns
    text = "\n".join(lines)
    assert all(size in text for size in ("4.0 GiB", "300.0 MiB", "900.0 MiB", "2.0 GiB"))
    assert " ".join(text.split()).count("?") == 2 + 2


def test_nothing_is_one_line() -> None:
    assert list(list_lines([], 60)) == ["no such VM runs here, as far as this user may see"]

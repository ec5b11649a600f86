"""What the driver's file in debugfs says, as a real one has printed it."""

from __future__ import annotations

from ballonet.guests.vmware_guest import parse_vmmemctl

#: Of Linux 6.1.0-56-cloud-amd64, as it came; columns are the kernel's.
PRINTED = """\
balloon capabilities  :             0x3e
used capabilities     :              0x6
is resetting          :                y
target                :             5000
current               :             5456
start                 :                3 (1 failed)
target                :               29 (4 failed)
doorbellSet           :                4 (4 failed)
timer                 :               29
errAlloc          (4k):              321
free              (2M):               40

"""


def test_every_figure_has_a_name_of_its_own() -> None:
    assert parse_vmmemctl(PRINTED) == {
        "balloon capabilities": 0x3E,
        "used capabilities": 6,
        "is resetting": 1,
        "target": 5000,
        "current": 5456,
        "start calls": 3,
        "start failed": 1,
        "target calls": 29,
        "target failed": 4,
        "doorbellSet calls": 4,
        "doorbellSet failed": 4,
        "timer": 29,
        "errAlloc (4k)": 321,
        "free (2M)": 40,
    }


def test_what_is_no_figure_is_left_out() -> None:
    assert parse_vmmemctl("cat: can't open it\n\nis resetting  :  n\n") == {"is resetting": 0}

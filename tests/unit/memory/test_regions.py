"""Address translation, and tables that are refused."""

import pytest

from ballonet.errors import GuestMemoryError, SessionError
from ballonet.memory.regions import REGIONS_MAX, Region, RegionTable

LOW = Region(gpa=0x1000, size=0x3000, uva=0x7000_0000, file_offset=0)
HIGH = Region(gpa=0x1_0000_0000, size=0x2000, uva=0x1000_0000, file_offset=0x3000)
TABLE = RegionTable([HIGH, LOW])


@pytest.mark.parametrize(
    ("gpa", "length", "where"),
    [(0x1000, 1, (0, 0)), (0x3FFF, 1, (0, 0x2FFF)), (0x1_0000_0000, 0x2000, (1, 0))],
)
def test_a_range_inside_one_region_is_found(gpa: int, length: int, where: tuple[int, int]) -> None:
    assert TABLE.find(gpa, length) == where


@pytest.mark.parametrize(
    ("gpa", "length"),
    [(0, 1), (0xFFF, 2), (0x3FFF, 2), (0x4000, 1), (0x1_0000_1FFF, 2), (2**64 - 1, 2**32)],
)
def test_a_range_with_either_end_outside_is_refused(gpa: int, length: int) -> None:
    with pytest.raises(GuestMemoryError):
        TABLE.find(gpa, length)


def test_user_addresses_need_not_be_in_the_order_of_guest_addresses() -> None:
    assert TABLE.find_uva(0x1000_0010, 4) == (1, 0x10)
    assert TABLE.find_uva(0x7000_0000, 0x3000) == (0, 0)
    with pytest.raises(GuestMemoryError):
        TABLE.find_uva(0x7000_2FFF, 2)


@pytest.mark.parametrize(
    "regions",
    [
        [LOW, Region(0x3FFF, 0x1000, 0, 0)],
        [LOW, Region(0x9000, 0x1000, LOW.uva + 0x2000, 0)],
        [Region(0, 0, 0, 0)],
        [Region(2**64 - 0x1000, 0x2000, 0, 0)],
        [Region(0, 0x2000, 2**64 - 0x1000, 0)],
        [Region(0, 0x1000, 0, 2**63 - 1)],
        [Region(i << 12, 0x1000, i << 12, 0) for i in range(REGIONS_MAX + 1)],
    ],
    ids=["overlap", "user overlap", "empty", "overflow", "user overflow", "file overflow", "many"],
)
def test_a_table_that_cannot_be_meant_is_refused(regions: list[Region]) -> None:
    with pytest.raises(SessionError):
        RegionTable(regions)

"""Which queue a number means, in both layouts."""

from itertools import product

import pytest

from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueLayout, QueueRole, queue_roles

OPTIONAL = {
    QueueRole.STATS: Feature.STATS_VQ,
    QueueRole.HINT: Feature.FREE_PAGE_HINT,
    QueueRole.REPORTING: Feature.PAGE_REPORTING,
}


@pytest.mark.parametrize("present", list(product([False, True], repeat=3)))
def test_dense_numbers_leave_no_gap_and_fixed_numbers_never_move(
    present: tuple[bool, ...],
) -> None:
    wanted = [role for role, there in zip(OPTIONAL, present, strict=True) if there]
    features = Feature(0)
    for role in wanted:
        features |= OPTIONAL[role]

    dense = queue_roles(features, QueueLayout.DENSE)
    fixed = queue_roles(features, QueueLayout.FIXED)

    expected = [QueueRole.INFLATE, QueueRole.DEFLATE, *wanted]
    assert list(dense) == expected + [None] * (5 - len(expected))
    numbers = {QueueRole.INFLATE: 0, QueueRole.DEFLATE: 1} | dict(
        zip(OPTIONAL, (2, 3, 4), strict=True)
    )
    assert {role: i for i, role in enumerate(fixed) if role} == {
        role: numbers[role] for role in expected
    }


def test_only_inflate_and_deflate_live_when_a_front_end_masks_every_device_bit() -> None:
    roles = queue_roles(Feature.VERSION_1, QueueLayout.DENSE)
    assert roles == (QueueRole.INFLATE, QueueRole.DEFLATE, None, None, None)

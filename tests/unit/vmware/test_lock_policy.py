"""Pages that a host refuses to lock or unlock."""

import numpy as np

from ballonet.vmware.calls import Status
from ballonet.vmware.lock_policy import RefusedPages


def test_nothing_is_refused_at_first() -> None:
    policy = RefusedPages()
    assert policy.lock(np.arange(5, dtype=np.uint64), 1).tolist() == [0] * 5
    assert policy.unlock(np.arange(5, dtype=np.uint64), 1).tolist() == [0] * 5


def test_each_page_is_refused_for_its_own_reason() -> None:
    policy = RefusedPages()
    policy.pin([3, 9])
    policy.refuse_lock([4], Status.BUSY)
    policy.refuse_unlock([3], Status.PPN_INVALID)
    pfns = np.array([9, 4, 3, 2, 10], np.uint64)
    assert policy.lock(pfns, 1).tolist() == [
        *(Status.PPN_PINNED, Status.BUSY, Status.PPN_PINNED, 0, 0)
    ]
    assert policy.unlock(pfns, 1).tolist() == [0, 0, Status.PPN_INVALID, 0, 0]
    policy.allow()
    assert not policy.lock(pfns, 1).any()
    assert not policy.unlock(pfns, 1).any()


def test_a_block_is_refused_for_any_of_its_pages() -> None:
    policy = RefusedPages()
    policy.pin([511, 1024, 2048])
    heads = np.array([0, 512, 1024, 1536, 2048], np.uint64)
    assert (policy.lock(heads, 512) == Status.PPN_PINNED).tolist() == [
        *(True, False, True, False, True)
    ]

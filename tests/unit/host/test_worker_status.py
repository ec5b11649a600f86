"""What a worker tells its supervisor."""

from __future__ import annotations

import pytest

from ballonet.balloon.request import Stage
from ballonet.errors import WireError
from ballonet.host.worker_status import STATUS_BYTES, WorkerStatus


@pytest.mark.parametrize("stage", list(Stage))
def test_a_status_is_read_as_it_was_written(stage: Stage) -> None:
    status = WorkerStatus(1 << 44, (1 << 32) - 1, 0, stage)
    assert WorkerStatus.parse(status.pack()) == status


@pytest.mark.parametrize(
    "raw", [b"", bytes(STATUS_BYTES - 1), bytes(STATUS_BYTES + 1), b"\xff" * STATUS_BYTES]
)
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        WorkerStatus.parse(raw)

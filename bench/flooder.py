"""A hostile driver, until killed: ``python -m bench.flooder SOCKET``.

Its ring is always full of messages of 256 scattered pages, and it does not wait for answers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from ballonet.errors import RingError
from ballonet.virtio.queues import QueueRole
from bench.device_process import LARGE_WANTED, Giver, LargeRig


def main(path: Path) -> None:
    """Flood."""
    os.nice(19)  # the processor this takes is not the device's fault
    random = np.random.default_rng(3)
    with LargeRig(path).session(LARGE_WANTED) as session:
        giver = Giver(session)
        giver.fill()
        pieces = []
        for _ in range(32):
            pfns = random.permutation(giver.data_pages)[:256]
            pieces.append(session.memory.message(pfns.astype("<u4").tobytes()))
        ring = session.rings[QueueRole.INFLATE]
        while True:
            for piece in pieces:
                try:
                    ring.add([piece])
                except RingError:
                    break
            ring.publish()
            session.kick(QueueRole.INFLATE)
            ring.collect()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A migration to nowhere, until it is cancelled: QEMU has a round of free page hints then.

It is so slow that it never comes to the second look at what was written: there is one round.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.lab.traced_guest import TracedGuest
from ballonet.lab.waiting import wait_for

__all__ = ["HINTING", "hinting_migration"]

#: Options of a balloon that hints.
HINTING: Final = ("free-page-hint=on", "iothread=iothread0")
_NOWHERE: Final = "exec:cat > /dev/null"
_BYTES_PER_SECOND: Final = 64 << 10
_ENDED: Final = frozenset({"cancelled", "completed", "failed"})


@contextmanager
def hinting_migration(traced: TracedGuest) -> Iterator[None]:
    """Migrate inside the block, and cancel at its end; when it ends nothing migrates any more."""
    traced.execute("migrate-set-parameters", **{"max-bandwidth": _BYTES_PER_SECOND})
    traced.execute("migrate", uri=_NOWHERE)
    yield
    traced.execute("migrate_cancel")
    wait_for(
        lambda: traced.guest.monitor.execute("query-migrate")["status"] in _ENDED,
        "the end of the migration",
    )

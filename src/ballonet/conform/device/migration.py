"""Checks of what a migration asks of a device behind vhost-user."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.rig import Rig
from ballonet.conform.device.session import DeviceSession
from ballonet.errors import GuestError
from ballonet.units import BALLOON_PAGE_SHIFT
from ballonet.vhost_user.device_migration import DeviceMigration
from ballonet.vhost_user.frontend import FrontEnd
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_ACTUAL_AT: Final = 4
_ACTUAL: Final = 77
_WORD: Final = 4


def _migration(session: DeviceSession) -> DeviceMigration:
    if not isinstance(session.transport, FrontEnd):
        raise NotApplicable("only vhost-user has it")
    return session.transport.migration


@SUITE.check("P-L1", Level.PITFALL, "used rings are marked in the dirty log, and marked again")
def used_rings_are_marked(rig: Rig) -> str:
    with rig.session() as session:
        migration = _migration(session)
        try:
            migration.start_log()
        except GuestError as error:
            raise NotApplicable(str(error)) from error
        page = session.rings[QueueRole.INFLATE].place.used >> BALLOON_PAGE_SHIFT
        for turn in ("first", "second"):
            session.works()
            migration.stop_rings()
            if page not in migration.take_log():
                raise Failed(f"page {page:#x} of a used ring is not marked the {turn} time")
            migration.start_rings()
        return f"page {page:#x} was marked twice, and taken in between"


@SUITE.check("P-L2", Level.PITFALL, "a state that was saved is loaded into a fresh device")
def state_is_loaded(rig: Rig) -> str:
    with rig.session() as session:
        migration = _migration(session)
        session.transport.write_config(_ACTUAL_AT, _ACTUAL.to_bytes(_WORD, "little"))
        migration.stop_rings()
        try:
            blob = migration.save_state()
        except GuestError as error:
            raise NotApplicable(str(error)) from error
        migration.start_rings()
        session.works()
    with rig.session() as session:
        migration = _migration(session)
        migration.stop_rings()
        migration.load_state(blob)
        migration.start_rings()
        actual = int.from_bytes(session.transport.read_config(_ACTUAL_AT, _WORD), "little")
        if actual != _ACTUAL:
            raise Failed(f"actual was {_ACTUAL} at the source, and is {actual}")
        session.works()
        return f"{len(blob)} bytes, and both devices go on to serve"

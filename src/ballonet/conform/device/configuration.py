"""Checks of features and of the configuration space."""

from __future__ import annotations

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.rig import EVERYTHING, Rig
from ballonet.virtio.config import config_length
from ballonet.virtio.features import Feature

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()


@SUITE.check("D-F1", Level.SHOULD, "works for a driver that declines MUST_TELL_HOST")
def works_without_must_tell_host(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.MUST_TELL_HOST) as session:
        return session.works()


@SUITE.check("C-1", Level.MUST, "the configuration can be read in any size at any offset")
def reads_of_any_size(rig: Rig) -> str:
    with rig.session() as session:
        length = config_length(session.offered)
        whole = b"".join(session.transport.read_config(at, 4) for at in range(0, length, 4))
        for size in (1, 2, 4):
            for at in range(0, length, size):
                piece = session.transport.read_config(at, size)
                if piece != whole[at : at + size]:
                    wanted = whole[at : at + size].hex()
                    raise Failed(f"{size} bytes at {at} read {piece.hex()}, not {wanted}")
        return f"{length} bytes, the same in pieces of 1, 2 and 4"


@SUITE.check("C-2", Level.MUST, "num_pages and the hint id cannot be written by the driver")
def read_only_fields(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.FREE_PAGE_HINT)
        before = [session.transport.read_config(at, 4) for at in (0, 8)]
        for at in (0, 8):
            session.transport.write_config(at, b"\x78\x56\x34\x12")
        after = [session.transport.read_config(at, 4) for at in (0, 8)]
        if before != after:
            raise Failed(f"they read {before} before the write and {after} after it")
        return "both read as before; " + session.works()


@SUITE.check("C-3", Level.MUST, "actual reads as the driver wrote it")
def actual_is_stored(rig: Rig) -> str:
    with rig.session() as session:
        session.transport.write_config(4, (77).to_bytes(4, "little"))
        actual = int.from_bytes(session.transport.read_config(4, 4), "little")
        if actual != 77:
            raise Failed(f"77 was written, {actual} is read")
        session.transport.write_config(4, bytes(4))
        return "77 was written and is read"


@SUITE.check("C-4", Level.MUST, "a new target shows in num_pages, and the driver is told")
def target_is_told(rig: Rig) -> str:
    if rig.control is None:
        raise NotApplicable("the host of this device cannot be asked for anything")
    with rig.session() as session:
        before = session.heard.config_changes
        rig.control.set_target(512)
        if not session.until(lambda: session.heard.config_changes > before):
            raise Failed("no configuration change is told")
        pages = int.from_bytes(session.transport.read_config(0, 4), "little")
        rig.control.set_target(0)
        if pages != 512:
            raise Failed(f"512 pages were asked for, num_pages is {pages}")
        return "one change told, num_pages is 512"


@SUITE.check(
    "C-5", Level.PITFALL, "an actual larger than the guest is only a claim, and does no harm"
)
def silly_actual(rig: Rig) -> str:
    with rig.session() as session:
        session.transport.write_config(4, b"\xff\xff\xff\xff")
        evidence = session.works()
        shown = "" if rig.control is None else f"; the host sees {rig.control.actual_pages()} pages"
        session.transport.write_config(4, bytes(4))
        return evidence + shown

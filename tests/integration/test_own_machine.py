"""What is found out of a virtual machine behind a device and a monitor of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.moving_guests import MovingGuest, device
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.vms.qmp_machine import connected


async def negotiated(path: Path) -> tuple[bool | None, bool, bool]:
    async with connected(str(path)) as machine:
        return (
            await machine.has_driver(),
            await machine.deflates_on_oom(),
            await machine.hints_free_pages(),
        )


@pytest.mark.parametrize("deflates", [True, False])
@pytest.mark.parametrize("hints", [True, False])
def test_what_the_driver_has_accepted_is_known(
    tmp_path: Path, *, deflates: bool, hints: bool
) -> None:
    options = [
        "--deflate-on-oom" if deflates else "--no-deflate-on-oom",
        "--free-page-hint" if hints else "--no-free-page-hint",
    ]
    with device(tmp_path, "a", *options), MovingGuest(tmp_path, "guest", tmp_path / "a"):
        monitor = Path(f"{tmp_path / 'a'}.qmp")
        wait_until(
            lambda: asyncio.run(negotiated(monitor))[0], PATIENCE_S, "the driver does not come"
        )
        assert asyncio.run(negotiated(monitor)) == (True, deflates, hints)

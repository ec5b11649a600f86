"""What the two fields of the configuration mean."""

from __future__ import annotations

import time
from typing import Final

from ballonet.errors import GuestError
from ballonet.guests.qemu_balloon import QemuBalloonGuest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.units import format_bytes

__all__ = ["EXPERIMENT"]

_MEMORY_BYTES: Final = 256 << 20
_WANTED_BYTES: Final = 192 << 20
_STEADY_S: Final = 120.0
_LOOK_S: Final = 0.1


def _on_qemu(notebook: Notebook) -> None:
    with QemuBalloonGuest(_MEMORY_BYTES) as guest:
        notebook.runs_on(guest.release, "QEMU")
        notebook.step("the driver is taken away from its device")
        device = guest.shell.check(
            "ls /sys/bus/virtio/drivers/virtio_balloon | grep virtio"
        ).strip()
        driver = "/sys/bus/virtio/drivers/virtio_balloon"
        guest.shell.check(f"echo {device} > {driver}/unbind")
        notebook.step(f"balloon {_WANTED_BYTES >> 20} is asked for, and nobody is there to hear it")
        guest.monitor.execute("balloon", value=_WANTED_BYTES)
        alone = int(guest.monitor.execute("query-balloon")["actual"])
        notebook.see("what QEMU calls actual", alone, "bytes")
        notebook.step("the driver comes back, and reads num_pages")
        guest.shell.check(f"echo {device} > {driver}/bind")
        end_s = time.monotonic() + _STEADY_S
        while (actual := int(guest.monitor.execute("query-balloon")["actual"])) != _WANTED_BYTES:
            if time.monotonic() > end_s:
                raise GuestError(f"the balloon does not reach its target, but {actual} bytes")
            time.sleep(_LOOK_S)
        notebook.see("what QEMU calls actual, then", actual, "bytes")
    notebook.claim("a wish alone changes nothing of what is reported", holds=alone == _MEMORY_BYTES)
    notebook.claim("the driver obeys the wish, and reports it", holds=actual == _WANTED_BYTES)
    notebook.conclude(
        f"num_pages is the host's wish, and was kept while nobody obeyed it; `actual` stayed at"
        f" {format_bytes(alone)} until the driver had come and reported {format_bytes(actual)}."
    )


EXPERIMENT: Final = Experiment(
    name="num-pages-actual",
    question="What do num_pages and actual mean?",
    answer="num_pages is what the host wants to be in the balloon, actual is what the guest says"
    " to be in it.",
    explanation="Both are fields of the device's configuration, in pages of 4 KiB. The device"
    " writes num_pages and tells the driver that its configuration has changed; the driver writes"
    " actual after each message of up to 256 pages. QEMU's `query-balloon` answers with the"
    " memory less actual: the guest is not asked.",
    sources=(
        "Virtio specification 1.3, section 5.5.4 (Device configuration layout)",
        "Linux drivers/virtio/virtio_balloon.c, towards_target, update_balloon_size",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_to_target, virtio_balloon_stat",
    ),
    runs={Kernel.QEMU: _on_qemu},
)

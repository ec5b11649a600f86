"""Page numbers that QEMU's own device takes from our driver, on every run."""

from __future__ import annotations

from ballonet.lab.experiment import Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find


def test_pages_are_numbered_in_4_kib_whatever_the_guest_s_page() -> None:
    perform(find("page-size"), Notebook(), Kernel.QEMU)

"""What the host gets by our own calls and ledger, on every run: the answers need no guest."""

from __future__ import annotations

from ballonet.lab.experiment import Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find


def test_each_kind_of_memory_is_freed_by_what_frees_it() -> None:
    perform(find("dontneed-shared"), Notebook(), Kernel.HOST)


def test_a_huge_page_goes_with_its_last_part_and_not_before() -> None:
    perform(find("page-size"), Notebook(), Kernel.HOST)

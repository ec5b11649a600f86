"""An experiment: a question, what is done on a running kernel to answer it, and the answer.

Its module defines one `EXPERIMENT`.  The answer is written down; whether it is true is found out by
each run, whose claims must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ballonet.errors import ExperimentError, UsageError
from ballonet.lab.notebook import Claim, Notebook

__all__ = ["Experiment", "Kernel", "perform"]


class Kernel(StrEnum):
    """Where an experiment can run."""

    UML = "uml"  #: a real Linux in User-Mode Linux, with our device
    QEMU = "qemu"  #: a real Linux in QEMU, emulated
    EMBEDDED = "embedded"  #: our own kernel, where a real one does not let itself be looked at
    HOST = "host"  #: this machine's own kernel, with no guest


@dataclass(frozen=True, slots=True)
class Experiment:
    """One question."""

    name: str  #: its module's, with `-` for `_`
    question: str
    answer: str  #: one sentence of plain English
    explanation: str  #: a few more: why it is so
    sources: tuple[str, ...]  #: sections of the specification, functions of kernel and QEMU
    runs: Mapping[Kernel, Callable[[Notebook], None]]  #: the first is what runs unless told

    @property
    def kernel(self) -> Kernel:
        """Where it runs unless told."""
        return next(iter(self.runs))


def perform(experiment: Experiment, notebook: Notebook, kernel: Kernel | None = None) -> None:
    """Run it, and have its claims hold.

    Raises: UsageError, where it cannot run there; ExperimentError, if the answer is not supported
    by what was seen; GuestError and others of its guests.
    """
    kernel = experiment.kernel if kernel is None else kernel
    if kernel not in experiment.runs:
        where = ", ".join(experiment.runs)
        raise UsageError(f"{experiment.name} runs on {where}, not on {kernel}")
    experiment.runs[kernel](notebook)
    if notebook.unsupported:
        raise ExperimentError(experiment.name, notebook.unsupported)
    if not notebook.conclusion or not any(isinstance(one, Claim) for one in notebook.entries):
        raise UsageError(f"{experiment.name} comes to no conclusion, or claims nothing")

"""All questions, in the order in which the answers are best read.

A row is an experiment's name; its module is loaded when it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from ballonet.errors import UsageError
from ballonet.lab.experiment import Experiment

__all__ = ["NAMES", "find"]

NAMES: Final = (
    "num-pages-actual",
    "mem-total",
)


def find(name: str) -> Experiment:
    """One experiment. Raises: UsageError, if there is none of that name."""
    if name not in NAMES:
        raise UsageError(f"there is no experiment {name}; `ballonet lab --list` shows all")
    module = import_module(f"ballonet.lab.experiments.{name.replace('-', '_')}")
    experiment: Experiment = module.EXPERIMENT
    return experiment

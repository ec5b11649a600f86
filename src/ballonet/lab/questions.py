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
    "stats-backtrace",
    "stats-workqueue",
    "stats-reverse-queue",
    "balloon-backtrace",
    "info-balloon",
    "feature-must-tell-host",
    "feature-stats-vq",
    "feature-deflate-on-oom",
    "feature-free-page-hint",
    "feature-page-poison",
    "feature-reporting",
    "queue-enable",
    "num-pages-actual",
    "compaction",
    "hyperv",
    "vmware-length",
    "mem-total",
    "out-of-puff",
    "not-at-once",
    "host-gets-memory",
    "guest-takes-again",
    "willneed",
    "dontneed-shared",
    "statistics-export",
    "balloon-change",
    "stats-wire-format",
    "balloon-dev-info",
    "page-size",
    "tell-host-migration",
    "poison-negotiation",
    "migration-hints",
    "hint-order",
    "hints-freed-at-done",
    "stop-and-done",
    "pages-and-free-page-list",
    "swap",
    "hint-paths",
    "dirty-not-lost",
    "dirty-lost",
    "sent-and-cleared",
    "postcopy-hints",
    "balloon-moves",
    "reporting-trigger",
    "free-page-vq-callback",
    "init-on-free",
)


def find(name: str) -> Experiment:
    """One experiment. Raises: UsageError, if there is none of that name."""
    if name not in NAMES:
        raise UsageError(f"there is no experiment {name}; `ballonet lab --list` shows all")
    module = import_module(f"ballonet.lab.experiments.{name.replace('-', '_')}")
    experiment: Experiment = module.EXPERIMENT
    return experiment

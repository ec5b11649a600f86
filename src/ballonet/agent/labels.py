"""What machines are called in metrics: their names, made distinct and fit for a label.

Whoever names a machine may be hostile, and Prometheus refuses a whole scrape in which one series
comes twice, or whose text is no UTF-8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ballonet.vms.observation import MachineId
from ballonet.vms.reply import printable

__all__ = ["label_text", "vm_labels", "vm_names"]

#: Longer than any name that people give.
_LETTERS_MOST: Final = 128


def vm_labels(machines: Sequence[MachineId]) -> list[str]:
    """One for each, in their order; no two of one kind have the same.

    The name; where several of a kind share it, with `#` and the process's number.
    """
    names = [label_text(one.name) for one in machines]
    shared = Counter(zip((one.kind for one in machines), names, strict=True))
    taken = {key for key, count in shared.items() if count == 1}
    labels = []
    for one, name in zip(machines, names, strict=True):
        label = name
        if shared[one.kind, name] > 1:
            label = base = name if one.pid is None else f"{name}#{one.pid}"
            number = 1
            while (one.kind, label) in taken:
                number += 1
                label = f"{base}#{number}"
            taken.add((one.kind, label))
        labels.append(label)
    return labels


def vm_names(machines: Sequence[MachineId]) -> list[str]:
    """The same with their kinds, `kind:name`, as the law, the ledger and the history say."""
    labels = vm_labels(machines)
    return [f"{one.kind}:{label}" for one, label in zip(machines, labels, strict=True)]


def label_text(text: str) -> str:
    """Printable, of bounded length."""
    text = printable(text)
    return text if len(text) <= _LETTERS_MOST else text[: _LETTERS_MOST - 1] + "…"

"""Child processes that do not outlive their parent, however that ends.

Source: prctl(2) PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

__all__ = ["end_with_parent"]

_PR_SET_PDEATHSIG: Final = 1
_prctl: Final = ctypes.CDLL(None, use_errno=True).prctl


def end_with_parent(parent_pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when its parent is gone; called in the child.

    The parent is the *thread* that made the child: one that ends early takes the child along.
    The setting survives exec, but not the exec of a set-user-ID program.
    """
    _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os.kill(os.getpid(), number)

"""Nothing that tests have started outlives them, even where the tests are killed by SIGKILL.

A word in the environment is handed down to every process, whoever starts it.  A shell without that
word sleeps on a pipe whose other end only the tests hold, and kills what has it when they are gone.
"""

from __future__ import annotations

import os
import subprocess
from typing import Final
from uuid import uuid4

_NAME: Final = "BALLONET_TESTS"
#: It lets the watchers of ours do their work first: they are killed too, if they still live.
_WATCHER: Final = """
read -r _
sleep 2
for _ in 1 2; do
    for file in $(grep -lsF -- "$0" /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        kill -s KILL "${pid%/environ}"
    done
done 2>/dev/null
"""


def end_children_with_us() -> subprocess.Popen[bytes]:
    """Have everything that is started from now on killed once this process is gone."""
    without = dict(os.environ)
    word = os.environ[_NAME] = str(uuid4())
    return subprocess.Popen(
        ["sh", "-c", _WATCHER, f"{_NAME}={word}"],
        stdin=subprocess.PIPE,
        env=without,
        start_new_session=True,
    )

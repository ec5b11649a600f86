"""How many descriptors the program may have open."""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["raise_file_limit"]

#: Two for each of the 509 regions a front-end may share, and room for everything else.
FILES_WANTED: Final = 4096


def raise_file_limit(files: int = FILES_WANTED) -> None:
    """Raise the soft limit, which is often 1024, as far as the hard one lets us.

    Programs we start inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""`ballonet top`."""

from ballonet.cli.top.command import top

__all__ = ["top"]

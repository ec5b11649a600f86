"""Names that nobody sane gives a machine, and somebody hostile may."""

from __future__ import annotations

from typing import Final

STRANGE_NAMES: Final = [
    "", " ", '"', "\\", "\n", '\\"\n', "{", "}", "a,b", 'vm="x"', "#", "web#7", "\t", "\r", "\0",
    "\x1b[31m", "\u2028", "\ufeff", "ü", "日本", "🎈", "\udcff", "\ud800", "é", "e\u0301",
    "A" * 500, "/run/x", "..", "%s", "%(x)s", "{{vm}}", "$vm", "${x}", "`id`", "$(id)", "'", "<b>",
    "&amp;", "NaN", "+Inf", "0", "-1", "# HELP x", "# TYPE", "ballonet_vm_up", "le", "__name__",
    "vm", "\x7f", "\x85",
]  # fmt: skip

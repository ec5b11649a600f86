"""Odd lines for the monitor of people, and expressions of which QEMU prints the value.

Not here: registers, of which ours has none; the least number divided by -1, which ends a QEMU; and
what QEMU 7.2 prints of commands that ours does not have.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EXPRESSIONS", "LINES"]

EXPRESSIONS: Final = (
    *("0", "300", "0x100", "0X1f", "010", "08", "00", "0x", "0xg", "0b11", "1e3", "1.5", "12abc"),
    *("256+44", "(100+50)*2", "+300", "++5", "-1", "--1", "- -5", "-~0", "~0", "~~7", "+-+-3"),
    *("\t300", "300 ", " 300\t", "3 *4", "3* 4", "3 4", "1\n", "1\v2", "( 1 + 2 )", "1 , 2"),
    *("1+2*3", "2*3+1", "1-2-3", "100/7/2", "7%4", "-7/2", "-7%2", "7/-2", "7%-2", "1/0", "1%0"),
    *("1|2&3", "6&3|8", "7^2", "1|2+3", "1+2|3", "8|1*2", "5&3+1", "2*3&1", "1-2&3-4"),
    *("1/0+", "(1/0", "2-1/0", "1/0)", "5*(3", "5*(3))", "(1", "1)", "()", "(", ")", "((((1))))"),
    *("1+", "+", "-", "*", "1+*2", "1 2+", "x", "\u00e9", "", " ", "3!", "3;", "$", "$x"),
    "$nope+1",
    *("'a'", "'a", "'ab'", "'", "''", "'a'+1", "' '", "'\u00e9'", "\"300\"", "!1", "1<2", "1=1"),
    *("9223372036854775807", "9223372036854775807+1", "9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "0xffffffffffffffff", "0x10000000000000000"),
    *("01777777777777777777777", "02000000000000000000000", "0" * 40 + "7", "0x" + "0" * 40 + "7"),
    *("9" * 30, "9" * 5000, "0x7fffffffffffffff*2", "-9223372036854775807-2", "1\u00002"),
    "1\u00a02",
    *("(" * 400 + "1" + ")" * 400, "(" * 400, "-" * 401 + "1", "1" + "+1" * 400, "1" + "*3" * 400),
)  # fmt: skip

_HELP: Final = ("", "balloon", "stop", "c", "s", "?", "help", "q", "info balloon", "info status")
LINES: Final = (
    *(f"balloon {text}" for text in EXPRESSIONS),
    *("balloon/3", "balloon/", "balloon\t3", " balloon 3", "\vballoon 3", "  balloon x"),
    "Balloon 3",
    *("balloo 3", "balloons 3", "nonsense", "nonsense/x y", " nonsense  x", "/", "/x", "|"),
    "s|stop",
    *("", " ", "\t", "stop x", "s x", "cont 1", "c  1", "quit x", "q/", "stop/", "\u00e9"),
    *("\u0000", "\u0000x"),
    *("info nonsense", "info  nonsense x", " info\tnonsense", "info /", "info/x", "info balloon x"),
    *("info  balloon  x", "info balloon", "info\tballoon", "\tinfo balloon", 'info "balloon"'),
    *(f"help {what}".rstrip() for what in _HELP if what),
    *(f"? {what} x" for what in _HELP if what), "help  balloon ", 'help "balloon"', "help\tstop",
    *("help nonsense", "help nonsense x", "help info nonsense", "help info nonsense x", "help bal"),
    *('help "x', 'help "', 'help "a\\nb"', 'help "a\\qb"', 'help "a\\', 'help "a"b'),
    *('help ""', "help 'a'"),
    *("help balloon" + " x" * 14, "help balloon" + " x" * 15, "help balloon" + " x" * 16),
    *("help " + "y" * 1022, "help " + "y" * 1030, 'help "' + "y" * 1030 + '"', "z" * 300),
    *("help /", "help |"),
    *("info status", "stop", "info status", "stop", "cont", "info status", "s", "c"),
)  # fmt: skip

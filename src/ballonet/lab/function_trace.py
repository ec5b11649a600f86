"""The guest's kernel tells which of its functions are called: ftrace, over the guest's shell.

Only a kernel that was built for it does (Debian's was); what the compiler has put into its caller
cannot be seen, and `missing` has it.
Not here: what the lines mean (trace_lines.py).
Source: Linux Documentation/trace/ftrace.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from ballonet.errors import GuestError
from ballonet.guests.guest_shell import GuestShell
from ballonet.lab.trace_lines import TraceEntry, parse_trace

__all__ = ["TRACING", "FunctionTrace"]

TRACING: Final = "/sys/kernel/tracing"
#: A stack of 20 calls takes some 200 bytes: room for more than any experiment makes.
_BUFFER_KIB: Final = 8 << 10


#: Of the events that our probes are.
_GROUP: Final = "ballonet"


class FunctionTrace:
    """Traces inside the block; a context manager that leaves the kernel as it was.

    `functions` may have patterns (`virtballoon_*`); `events` are names below `events/`; with
    `has_stacks` each call is noted with who called, down to where the kernel was entered.
    `probes` are calls that are noted with an argument (`vring_interrupt vq=%si`) or, after `r `,
    with what they return (`r virtqueue_get_buf got=$retval`).
    """

    def __init__(
        self,
        shell: GuestShell,
        functions: Sequence[str],
        *,
        events: Sequence[str] = (),
        probes: Sequence[str] = (),
        has_stacks: bool = True,
    ) -> None:
        self._shell, self._functions, self._probes = shell, functions, probes
        self._events = (*events, *([_GROUP] if probes else []))
        self._has_stacks = has_stacks
        self.missing: tuple[str, ...] = ()  #: functions that this kernel cannot trace

    def __enter__(self) -> Self:
        """Begin. Raises: GuestError, if the kernel does not trace."""
        self._do(
            f"[ -e {TRACING}/trace ] || mount -t tracefs tracefs {TRACING}",
            f"cd {TRACING}",
            "echo 0 > tracing_on",
            f"echo {_BUFFER_KIB} > buffer_size_kb",
            "echo mono > trace_clock",
            f"echo {int(self._has_stacks)} > options/func_stack_trace",
        )
        lost = [
            name
            for name in self._functions
            if self._shell.run(f"echo '{name}' >> {TRACING}/set_ftrace_filter").exit_code
        ]
        self.missing = tuple(lost)
        if self._functions and len(lost) == len(self._functions):
            raise GuestError("the guest's kernel can trace none of these functions")
        self._do(*(f"echo '{_probe(one)}' >> {TRACING}/kprobe_events" for one in self._probes))
        self._switch_events(self._events, is_on=True)
        tracer = "function" if self._functions else "nop"
        self._do(f"cd {TRACING}", f"echo {tracer} > current_tracer", "echo 1 > tracing_on")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if error is None:  # a guest that has failed may not answer any more, and goes anyway
            self._switch_events(self._events, is_on=False)
            self._do(
                *(f"cd {TRACING}", "echo 0 > tracing_on", "echo nop > current_tracer"),
                *("echo > set_ftrace_filter", "echo 0 > options/func_stack_trace"),
                "echo > kprobe_events",
            )

    def clear(self) -> None:
        """Forget what was traced so far."""
        self._do(f"echo > {TRACING}/trace")

    def read(self) -> list[TraceEntry]:
        """What was traced since the beginning, or the last `clear`. Raises: GuestError."""
        return parse_trace(self._shell.check(f"cat {TRACING}/trace"))

    def count(self, name: str) -> int:
        """How often a function was called, counted in the guest."""
        return int(self._shell.run(f"grep -c ' {name}[ :]' {TRACING}/trace").output)

    def _switch_events(self, events: Iterable[str], *, is_on: bool) -> None:
        self._do(*(f"echo {int(is_on)} > {TRACING}/events/{event}/enable" for event in events))

    def _do(self, *commands: str) -> None:
        if commands:
            self._shell.check(" && ".join(f"{{ {command}; }}" for command in commands))


def _probe(text: str) -> str:
    """As the kernel wants it: kind, group and name, function, what is to be noted."""
    kind, name, *rest = text.split() if text.startswith("r ") else ["p", *text.split()]
    return f"{kind}:{_GROUP}/{name} {name} {' '.join(rest)}"

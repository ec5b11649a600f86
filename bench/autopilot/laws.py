"""Every law as one protocol: looks at host and VMs in, new targets out.

Units: bytes left to the guest, seconds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from ballonet.autopilot.law import FIRST, Step, step
from ballonet.autopilot.sample import Round, VmSample
from ballonet.autopilot.settings import Mode, Settings
from bench.autopilot import mom, proxmox

__all__ = ["LAWS", "Law", "Limits", "Ours"]

#: A quarter of a VM's memory: what every law may ask it to keep at least.
LEAST_SHARE: Final = 0.25


class Limits(Protocol):
    """What a law is told once."""

    @property
    def budget_bytes(self) -> int:
        """For all VMs together."""
        ...

    @property
    def reserve_bytes(self) -> int:
        """Of that for the host."""
        ...


class Law(Protocol):
    """One that decides."""

    period_s: float  #: between decisions

    def decide(self, seen: Round) -> Mapping[str, int]:
        """New targets of those whose target changes."""
        ...


class Nothing:
    """Everybody keeps everything."""

    period_s = 1.0

    def decide(self, seen: Round) -> Mapping[str, int]:
        """Nothing."""
        del seen
        return {}


class EqualSplit:
    """Everybody gets the same part, once."""

    period_s = 1.0

    def __init__(self, limits: Limits) -> None:
        self._limits, self._is_done = limits, False

    def decide(self, seen: Round) -> Mapping[str, int]:
        """The same for all."""
        if self._is_done:
            return {}
        self._is_done = True
        part = (self._limits.budget_bytes - self._limits.reserve_bytes) // len(seen.vms)
        return {one.vm: min(part, one.memory_bytes or part) for one in seen.vms}


class Mom:
    """MOM's, at its own period or another one."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._free: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=mom.LOOKS))
        self._has: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=mom.LOOKS))
        self._host: deque[float] = deque(maxlen=mom.LOOKS)

    def decide(self, seen: Round) -> Mapping[str, int]:
        """Each by itself."""
        total, available = seen.host.total_bytes or 1, seen.host.available_bytes or 0
        self._host.append(available / total)
        share = sum(self._host) / len(self._host)
        targets = {}
        for one in seen.vms:
            has, memory = one.actual_bytes or 0, one.memory_bytes or 0
            self._free[one.vm].append(one.statistics.get("memfree", 0))
            self._has[one.vm].append(has)
            vm = mom.MomVm(
                int(memory * LEAST_SHARE),
                memory,
                has,
                _mean(self._has[one.vm]),
                _mean(self._free[one.vm]),
            )
            size = mom.next_size(vm, share)
            if size != has:
                targets[one.vm] = size
        return targets


class Proxmox:
    """Proxmox's, at its own period or another one."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s

    def decide(self, seen: Round) -> Mapping[str, int]:
        """By shares."""
        host = seen.host
        goal = proxmox.goal_of(host.total_bytes or 0, host.available_bytes or 0)
        return proxmox.next_sizes({one.vm: _proxmox_vm(one) for one in seen.vms}, goal)


class Ours:
    """The autopilot."""

    def __init__(self, settings: Settings) -> None:
        self.period_s, self._settings = settings.constants.look_s, settings
        self._state = FIRST
        self.last: Step | None = None

    def decide(self, seen: Round) -> Mapping[str, int]:
        """By its law."""
        self.last = step(self._state, seen, self._settings)
        self._state = self.last.state
        self.period_s = self.last.next_look_s
        return {one.vm: one.to_bytes for one in self.last.changes}


def _mean(values: deque[int]) -> float:
    return sum(values) / len(values)


def _proxmox_vm(one: VmSample) -> proxmox.ProxmoxVm:
    memory = one.memory_bytes or 0
    return proxmox.ProxmoxVm(
        int(memory * LEAST_SHARE), memory, one.actual_bytes or 0, one.statistics.get("memfree", 0)
    )


def _ours(mode: Mode) -> Callable[[Limits], Law]:
    return lambda limits: Ours(Settings(mode=mode, reserve_bytes=limits.reserve_bytes))


#: By name; each is made anew for every run.
LAWS: Final[Mapping[str, Callable[[Limits], Law]]] = {
    "nothing": lambda _: Nothing(),
    "equal split": EqualSplit,
    "MOM": lambda _: Mom(10.0),
    "MOM, 2.5 s": lambda _: Mom(2.5),
    "Proxmox": lambda _: Proxmox(10.0),
    "Proxmox, 2.5 s": lambda _: Proxmox(2.5),
    "autopilot": _ours(Mode.RETURN),
    "autopilot, hold": _ours(Mode.HOLD),
}

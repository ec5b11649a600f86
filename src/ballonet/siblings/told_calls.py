"""A call answered by VMware's host, and told to those who look on, whatever carries it."""

from __future__ import annotations

from ballonet.balloon.facts import MessageReceived
from ballonet.vmware.calls import COMMAND_NAMES, Answer, Call, Command
from ballonet.vmware.host import VmwareHost

__all__ = ["answer_call"]


def answer_call(host: VmwareHost, call: Call) -> Answer:
    """The host's answer; observers of details hear of it before the guest does."""
    answer = host.call(*call)
    observers = host.given.observers
    if observers.want_details:
        facts = {"arg1": call.arg1, "arg2": call.arg2} | answer._asdict()
        is_known = call.command in COMMAND_NAMES
        name = COMMAND_NAMES[Command(call.command)] if is_known else f"command {call.command}"
        observers.tell_detail(MessageReceived(name, facts))
    return answer

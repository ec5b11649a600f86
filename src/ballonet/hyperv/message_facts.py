"""A message as a fact, for whoever records what happens."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from ballonet.balloon.facts import MessageReceived
from ballonet.hyperv.layouts import split_ranges
from ballonet.hyperv.messages import Message

__all__ = ["fact_of"]


def fact_of(message: Message) -> MessageReceived:
    """Its name and numbers; of its ranges how many there are, and of how many pages."""
    arguments: dict[str, object] = {}
    for one in fields(message):
        value = getattr(message, one.name)
        if isinstance(value, np.ndarray):
            arguments |= {"ranges": value.size, "pages": split_ranges(value).total_pages}
        else:
            arguments[one.name] = value
    return MessageReceived(type(message).__name__, arguments)

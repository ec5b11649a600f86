"""What a host counts of its protocol; every number only grows, over all guests."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["HostCounters"]


@dataclass(slots=True)
class HostCounters:
    """Messages, and 4 KiB pages."""

    malformed_messages: int = 0  #: short, of no known type, or with more ranges than bytes
    unexpected_messages: int = 0  #: well-formed, and ignored: not now, or not from a guest
    balloon_requests: int = 0
    unballoon_requests: int = 0
    hot_add_requests: int = 0
    full_rings: int = 0  #: times a message had to wait for room
    duplicate_pages: int = 0  #: given though they were given before
    outside_pages: int = 0  #: given, and no memory that the guest has
    ignored_pages: int = 0  #: the same, and not remembered
    surplus_pages: int = 0  #: given beyond what was asked for

    def described(self) -> dict[str, object]:
        """By name, words joined by dashes."""
        return {one.name.replace("_", "-"): getattr(self, one.name) for one in fields(self)}

"""How a guest and a host come to terms: a version, what the guest can do, and a wait.

Source: QEMU hw/hyperv/hv-balloon.c hv_balloon_handle_version_request,
hv_balloon_handle_caps_report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.layouts import Capability, Version, format_version
from ballonet.hyperv.messages import (
    CapabilitiesReport,
    CapabilitiesResponse,
    Info,
    VersionRequest,
    VersionResponse,
)
from ballonet.hyperv.settings import HypervHostSettings

__all__ = ["Handshake"]


class Handshake:
    """Of one guest, from the moment its channel opens."""

    def __init__(self, settings: HypervHostSettings, max_pages: int) -> None:
        """`max_pages`: the most memory the guest will ever have."""
        self.state = HostState.VERSION  #: IDLE: it is over
        self.version = 0
        self.capabilities = 0
        self.ready_ns: int | None = None  #: when the wait ends; None: it has not begun, or is over
        self.max_pages: Final = max_pages
        self._settings = settings

    @property
    def are_capabilities_known(self) -> bool:
        """The driver has told what it can do."""
        return self.state in (HostState.POST_INIT_WAIT, HostState.IDLE)

    @property
    def terms(self) -> tuple[str, ...]:
        """Version and capabilities; nothing before they are known."""
        if not self.are_capabilities_known:
            return ()
        found = [one for one in Capability if self.capabilities & one]
        names = [str(one.name).lower().replace("_", " ") for one in found]
        if Capability.HOT_ADD in found:
            names.append(f"alignment {Capability.alignment_mib(self.capabilities)} MiB")
        return (f"version {format_version(self.version)}", *names)

    def version_request(self, request: VersionRequest) -> Sequence[bytes] | None:
        """What to answer; None: a version is agreed upon already."""
        if self.state is not HostState.VERSION:
            return None
        is_accepted = self._settings.version_min <= request.version <= self._settings.version_max
        if is_accepted:
            self.version = request.version
            self.state = HostState.CAPS
        return [VersionResponse(request.trans_id, is_accepted).build()]

    def capabilities_report(
        self, report: CapabilitiesReport, now_ns: int
    ) -> Sequence[bytes] | None:
        """What to answer; None: it is not the time for it."""
        if self.state is not HostState.CAPS:
            return None
        self.capabilities = report.capabilities
        self.state = HostState.POST_INIT_WAIT
        self.ready_ns = now_ns + self._settings.post_init_wait_ns
        suppress = not self._settings.status_report
        response = CapabilitiesResponse(
            report.trans_id, is_accepted=True, hot_remove=True, suppress_status=suppress
        )
        if self.version < Version.V1_0:
            return [response.build()]
        return [response.build(), Info(report.trans_id, self.max_pages).build()]

    def end_wait(self, now_ns: int) -> None:
        """Be done, if the guest has had its time."""
        if self.ready_ns is not None and now_ns >= self.ready_ns:
            self.ready_ns = None
            self.state = HostState.IDLE

"""How guest and host settle what the guest's free pages hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedEmbeddedGuest
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.kernel.kernel import KernelSettings
from ballonet.lab.driver_guest import driver_guest
from ballonet.lab.experiment import Experiment, Kernel
from ballonet.lab.notebook import Notebook
from ballonet.virtio.features import RING_FEATURES, Feature

__all__ = ["EXPERIMENT"]

_EMBEDDED_BYTES: Final = 64 << 20
_POISON: Final = 0xAA  #: PAGE_POISON of Linux
_BOTH: Final = Feature.PAGE_POISON | Feature.PAGE_REPORTING


@dataclass(frozen=True, slots=True)
class _Settled:
    option: str  #: of the guest
    offered: Feature
    accepted: Feature
    poison_val: int | None  #: None: the driver wrote none

    @property
    def row(self) -> tuple[str, ...]:
        value = "not written" if self.poison_val is None else f"{self.poison_val:#x}"
        return (self.option or "none", *map(_names, (self.offered, self.accepted)), value)


def _on_uml(notebook: Notebook) -> None:
    cases = (("", _BOTH), ("init_on_free=1", _BOTH), ("init_on_free=1", Feature.PAGE_REPORTING))
    plain, zeroing, unheard = (_on_our_device(notebook, *case) for case in cases)
    _show(notebook, plain, zeroing, unheard)
    _claim_plain(notebook, plain)
    notebook.claim(
        "a guest that zeroes what it frees accepts PAGE_POISON and writes poison_val 0",
        holds=zeroing.accepted == _BOTH and zeroing.poison_val == 0,
    )
    _claim_unheard(notebook, unheard)
    notebook.conclude(
        "The device offers PAGE_POISON; the driver kept it and wrote poison_val"
        f" {zeroing.poison_val} with init_on_free=1, and cleared it without."
    )


def _on_our_device(notebook: Notebook, option: str, offered: Feature) -> _Settled:
    with driver_guest(notebook, offered, *option.split()) as machine:
        notebook.step(f"a guest with {option or 'no option'} is offered {_names(offered)}")
        return _settled(option, offered, machine.device.status())


def _on_embedded(notebook: Notebook) -> None:
    cases = ((None, _BOTH), (_POISON, _BOTH), (_POISON, Feature.PAGE_REPORTING))
    plain, poisoning, unheard = (_on_our_kernel(notebook, *case) for case in cases)
    _show(notebook, plain, poisoning, unheard)
    _claim_plain(notebook, plain)
    notebook.claim(
        "a guest that poisons what it frees accepts PAGE_POISON and writes the byte four times",
        holds=poisoning.accepted == _BOTH and poisoning.poison_val == _POISON * 0x01010101,
    )
    _claim_unheard(notebook, unheard)
    notebook.conclude(
        "The device offers PAGE_POISON; the driver kept it and wrote poison_val"
        f" {poisoning.poison_val or 0:#x} where freed pages are filled with {_POISON:#x}, and"
        " cleared it where they are not filled."
    )


def _on_our_kernel(notebook: Notebook, poison: int | None, offered: Feature) -> _Settled:
    option = "" if poison is None else f"--poison {poison:#x}"
    guest = EmbeddedGuestSettings(_EMBEDDED_BYTES, kernel=KernelSettings(poison=poison))
    with BalloonedEmbeddedGuest(guest, BalloonSettings(RING_FEATURES | offered)) as machine:
        notebook.runs_on("", "our embedded kernel")
        notebook.step(f"a guest with {option or 'no option'} is offered {_names(offered)}")
        return _settled(option, offered, machine.device.status())


def _settled(option: str, offered: Feature, status: Status) -> _Settled:
    return _Settled(option, offered, status.negotiated & _BOTH, status.poison_val)


def _show(notebook: Notebook, *settled: _Settled) -> None:
    notebook.table(
        "what was settled",
        ("option of the guest", "offered", "accepted", "poison_val"),
        [one.row for one in settled],
    )


def _claim_plain(notebook: Notebook, plain: _Settled) -> None:
    notebook.claim(
        "a guest that fills nothing clears PAGE_POISON, writes no value, and reports",
        holds=plain.accepted == Feature.PAGE_REPORTING and plain.poison_val is None,
    )


def _claim_unheard(notebook: Notebook, unheard: _Settled) -> None:
    notebook.claim(
        "a guest that fills its free pages and is not offered PAGE_POISON does not report",
        holds=unheard.accepted == Feature(0) and unheard.poison_val is None,
    )


def _names(features: Feature) -> str:
    return ", ".join(str(one.name) for one in features) or "neither"


EXPERIMENT: Final = Experiment(
    name="poison-negotiation",
    question="How is page poisoning negotiated, in both directions?",
    answer="The device offers PAGE_POISON, and the driver keeps it only if its kernel fills free"
    " pages, and then writes into poison_val what with.",
    explanation="virtballoon_validate looks at the kernel's options before features are settled:"
    " without init_on_free and page_poison it clears PAGE_POISON; with one of them and no"
    " PAGE_POISON offered it clears REPORTING, because it could not say what its pages must hold."
    " virtballoon_probe writes 0 for init_on_free and otherwise 0xaa in each byte, before it lets"
    " the device begin. So the offer goes from host to guest, and the value from guest to host."
    " None of the real kernels at hand is built with PAGE_POISONING, so what a driver does with"
    " 0xaa is shown by ours (--kernel embedded).",
    sources=(
        "Virtio specification 1.3, section 5.5.6.6 (Page Poison)",
        "Linux drivers/virtio/virtio_balloon.c, virtballoon_validate, virtballoon_probe",
        "QEMU hw/virtio/virtio-balloon.c, virtio_balloon_set_config",
    ),
    runs={Kernel.UML: _on_uml, Kernel.EMBEDDED: _on_embedded},
)

"""The JSON interface, a row each; its description (OpenAPI) is made from the same rows.

Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

import ballonet
from ballonet.agent.web.actions import Record
from ballonet.agent.web.guard import RefusedError
from ballonet.agent.web.state import Snapshot, VmDetails

__all__ = [
    "ROUTES",
    "Asked",
    "Done",
    "Fault",
    "History",
    "Offer",
    "Reserve",
    "Route",
    "SetSize",
    "description",
    "parse_body",
]

_SIZE_MOST: Final = 1 << 52  # what every reader of JSON has exactly
_SECONDS_MOST: Final = 7 * 86400


class SetSize(Struct, frozen=True, forbid_unknown_fields=True):
    """What a machine is to keep."""

    bytes: Annotated[int, Meta(ge=1, le=_SIZE_MOST)]


class Reserve(Struct, frozen=True, forbid_unknown_fields=True):
    """Memory for a machine that is to start here; 0 gives up what was reserved."""

    bytes: Annotated[int, Meta(ge=0, le=_SIZE_MOST)]
    seconds: Annotated[int, Meta(ge=1, le=_SECONDS_MOST)] = 600


class Done(Struct, frozen=True):
    """It was taken; what comes of it is in the records."""

    done: bool = True


class Fault(Struct, frozen=True):
    """Why not."""

    error: str


class History(Struct, frozen=True):
    """What is remembered: by `kind:name`, rows of the columns that `keys` names."""

    keys: list[str]
    vms: dict[str, list[list[float | int | None]]]


class Asked(Struct, frozen=True):
    """What people have asked for, the newest first."""

    records: list[Record]


class Offer(NamedTuple):
    """What a request is answered from; `who` sent it."""

    state: Any  #: WebState
    who: str
    vm: str
    query: Mapping[str, str]
    body: Any


class Route(NamedTuple):
    """One thing that can be asked."""

    method: str
    path: str  #: {vm} stands for `kind:name`
    meaning: str
    answer: type[Struct]
    run: Callable[[Offer], Struct]
    body: type[Struct] | None = None
    query: Sequence[str] = ()  #: whole numbers


def parse_body(route: Route, data: bytes) -> Struct | None:
    """What a request says. Raises: RefusedError."""
    if route.body is None:
        return None
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        # To JSON 1.0 is a whole number.
        whole = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in fields.items()
        }
        return msgspec.convert(whole, route.body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RefusedError(422, str(error)) from error


def _seconds(offer: Offer) -> int:
    text = offer.query.get("seconds", "3600")
    if not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise RefusedError(422, "seconds is a whole number")
    seconds = int(text)
    if not 1 <= seconds <= _SECONDS_MOST:
        raise RefusedError(422, f"seconds is 1 to {_SECONDS_MOST}")
    return seconds


def _set_size(offer: Offer) -> Done:
    offer.state.actions.set_size(offer.who, offer.vm, offer.body.bytes)
    return Done()


def _pause(offer: Offer) -> Done:
    offer.state.actions.pause(offer.who, offer.vm)
    return Done()


def _resume(offer: Offer) -> Done:
    offer.state.actions.resume(offer.who, offer.vm)
    return Done()


def _reserve(offer: Offer) -> Done:
    offer.state.actions.reserve(offer.who, offer.body.bytes, offer.body.seconds)
    return Done()


ROUTES: Final = (
    Route(
        "GET",
        "/api/state",
        "The newest round: host, autopilot, every machine, the newest decisions.",
        Snapshot,
        lambda offer: offer.state.snapshot(),
    ),
    Route(
        "GET",
        "/api/history",
        "The last hours of every machine, for so many `seconds` (3600).",
        History,
        lambda offer: offer.state.history(None, _seconds(offer)),
        query=("seconds",),
    ),
    Route(
        "GET",
        "/api/actions",
        "What people have asked for by this interface.",
        Asked,
        lambda offer: Asked(offer.state.actions.newest),
    ),
    Route(
        "GET",
        "/api/vms/{vm}",
        "One machine: statistics with their age, features, decisions.",
        VmDetails,
        lambda offer: offer.state.details(offer.vm),
    ),
    Route(
        "GET",
        "/api/vms/{vm}/history",
        "The last hours of one machine.",
        History,
        lambda offer: offer.state.history(offer.vm, _seconds(offer)),
        query=("seconds",),
    ),
    Route(
        "POST",
        "/api/vms/{vm}/size",
        "Set what a machine is to keep, as safely as `ballonet set --wait`.",
        Done,
        _set_size,
        SetSize,
    ),
    Route("POST", "/api/vms/{vm}/pause", "Have the autopilot leave it alone.", Done, _pause),
    Route("POST", "/api/vms/{vm}/resume", "... no more.", Done, _resume),
    Route(
        "POST",
        "/api/reserve",
        "Keep memory for a machine that is to start here.",
        Done,
        _reserve,
        Reserve,
    ),
)


def description() -> dict[str, Any]:
    """All of it as an OpenAPI document."""
    named: set[type[Struct]] = {Fault, *(one.answer for one in ROUTES)}
    named |= {one.body for one in ROUTES if one.body is not None}
    structs = sorted(named, key=lambda one: one.__name__)
    _, components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ballonet agent",
            "version": ballonet.__version__,
            "description": "What the agent of a host sees of its VMs' memory, and decides."
            " Sizes are bytes that the guest keeps. What changes something needs the token.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if "{vm}" in route.path:
        parameters.append(
            {"name": "vm", "in": "path", "required": True, "schema": {"type": "string"}}
        )
    limits = {"type": "integer", "minimum": 1, "maximum": _SECONDS_MOST}
    parameters += [{"name": name, "in": "query", "schema": limits} for name in route.query]
    refusals = ["421", *(["422"] if route.query or route.body else [])]
    refusals += ["404"] if "{vm}" in route.path else []
    refusals += ["401", "403", "409", "413", "415"] if route.method == "POST" else ["503"]
    operation: dict[str, Any] = {
        "summary": route.meaning,
        "parameters": parameters,
        "responses": {
            "200": _response("The answer.", route.answer),
            **{code: _response("It is refused.", Fault) for code in sorted(set(refusals))},
        },
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(route.body)}},
        }
    if route.method == "POST":
        operation["security"] = [{"token": []}]
    return operation


def _response(text: str, kind: type[Struct]) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/json": {"schema": _reference(kind)}},
    }


def _reference(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}

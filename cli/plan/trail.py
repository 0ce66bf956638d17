"""Whether a trail announces new repositories: what its description and its selectors mean. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# The fields of the event of a new repository, as advanced event selectors name them.
_EVENT = {
    "eventCategory": "Management",
    "readOnly": "false",
    "eventSource": "ecr.amazonaws.com",
    "eventName": "CreateRepository",
    "eventType": "AwsApiCall",
}
_MATCHES: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "Equals": lambda value, items: value in items,
    "StartsWith": lambda value, items: value.startswith(tuple(items)),
    "EndsWith": lambda value, items: value.endswith(tuple(items)),
    "NotEquals": lambda value, items: value not in items,
    "NotStartsWith": lambda value, items: not value.startswith(tuple(items)),
    "NotEndsWith": lambda value, items: not value.endswith(tuple(items)),
}


class Status(StrEnum):
    """Whether events of new repositories reach the function in seconds to minutes."""

    LOGS = auto()
    FILTERED = auto()  # some of them, by a filter that is not evaluated
    NONE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Trail:
    """One trail in the region.

    Attributes:
        name: its name.
        organization: whether it is an organization's.
        logging: whether it logs; None if that cannot be read.
        selectors: the answer of GetEventSelectors; None if it cannot be read.
    """

    name: str
    organization: bool
    logging: bool | None
    selectors: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TrailCheck:
    """Whether a trail logs write management events in the region, and what follows."""

    status: Status
    note: str

    def details(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return {"status": self.status.value, "note": self.note}


def check(trails: Sequence[Trail], region: str) -> TrailCheck:
    """Return what the trails of a region mean for the function."""
    found = [(_status(trail), trail) for trail in trails]
    for status in (Status.LOGS, Status.FILTERED, Status.UNKNOWN):
        if first := next((trail for each, trail in found if each is status), None):
            return TrailCheck(status, _note(status, first, region))
    stopped = [trail.name for trail in trails if trail.logging is False]
    why = f" ({', '.join(stopped)} is stopped)" if stopped else ""
    return TrailCheck(
        Status.NONE,
        f"No trail logs write management events in {region}{why}: the function notices new repositories and "
        "policy changes by image pushes and sweeps only.",
    )


def unknown(reason: str) -> TrailCheck:
    """Return the answer for trails that cannot be read."""
    return TrailCheck(Status.UNKNOWN, f"Whether a trail logs is unknown: {reason}.")


def _note(status: Status, trail: Trail, region: str) -> str:
    name = f"{trail.name}{' of the organization' if trail.organization else ''}"
    match status:
        case Status.LOGS:
            return (
                f"The trail {name} logs write management events in {region}: the function notices new "
                "repositories and policy changes in seconds to minutes."
            )
        case Status.FILTERED:
            return f"The trail {name} filters management events in {region}: some changes may go unnoticed."
    return f"Whether the trail {name} logs write management events is unknown: it cannot be read."


def _status(trail: Trail) -> Status:
    if trail.logging is False:
        return Status.NONE
    if trail.logging is None or trail.selectors is None:
        return Status.UNKNOWN
    basic = [_basic(each) for each in trail.selectors.get("EventSelectors") or ()]
    advanced = [_advanced(each) for each in trail.selectors.get("AdvancedEventSelectors") or ()]
    return next((each for each in (Status.LOGS, Status.FILTERED) if each in basic + advanced), Status.NONE)


def _basic(selector: Mapping[str, Any]) -> Status:
    logs = (
        selector.get("IncludeManagementEvents", True)
        and selector.get("ReadWriteType", "All") in {"All", "WriteOnly"}
        and _EVENT["eventSource"] not in selector.get("ExcludeManagementEventSources", ())
    )
    return Status.LOGS if logs else Status.NONE


def _advanced(selector: Mapping[str, Any]) -> Status:
    fields = selector.get("FieldSelectors", ())
    known = [each for each in fields if each["Field"] in _EVENT]
    matches = all(
        _MATCHES[operator](_EVENT[each["Field"]], items)
        for each in known
        for operator, items in each.items()
        if operator in _MATCHES and items
    )
    if not matches or not any(each["Field"] == "eventCategory" for each in known):
        return Status.NONE
    return Status.LOGS if len(known) == len(fields) else Status.FILTERED

"""The result of reconciling one repository, and its severity. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto

from handler.policy.denials import Denial, denials_details
from handler.policy.grants import Entry

WHY_REFUSED = (
    "it does not exist, or was created less than a minute ago. Create it, or take it out of WorkerRoleArns "
    "or DescribeRoleArns"
)


class Outcome(StrEnum):
    """The outcome of reconciling one repository."""

    ATTACHED = "attached"
    UNCHANGED = "unchanged"
    WOULD_ATTACH = "would_attach"
    OUT_OF_SCOPE = "out_of_scope"
    GONE = "gone"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of reconciling one repository.

    Attributes:
        repository: its name.
        outcome: the outcome.
        added: the entries that our statements gained.
        removed: the entries that our statements lost.
        refused: the roles that it lacks because they do not exist.
        denied_by: the foreign statements that deny the grants.
        reason: why it failed.
        unlisted: the entries of our statements that no grant lists.
        not_removed: the Sids whose unlisted entries were to be removed and stayed, because every role of the
            grant is refused.
    """

    repository: str
    outcome: Outcome
    added: frozenset[Entry] = frozenset()
    removed: frozenset[Entry] = frozenset()
    refused: tuple[str, ...] = ()
    denied_by: tuple[Denial, ...] = ()
    reason: str = ""
    unlisted: frozenset[Entry] = frozenset()
    not_removed: tuple[str, ...] = ()

    @property
    def lacks_grant(self) -> bool:
        """Whether a role lacks a grant."""
        return self.outcome is Outcome.FAILED or bool(self.refused)

    def details(self) -> dict[str, object]:
        """Return the fields that are not empty, for the log and the report."""
        known = {
            "repository": self.repository,
            "outcome": self.outcome.value,
            "added": by_grant(self.added),
            "removed": by_grant(self.removed),
            "refused": list(self.refused),
            **denials_details(self.denied_by),
            "unlisted": by_grant(self.unlisted),
            "not_removed": list(self.not_removed),
            "reason": self.reason,
        }
        return {key: value for key, value in known.items() if value}


def by_grant(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return the principals of the entries by the Sid of their grant, in order."""
    grouped: dict[str, list[str]] = {}
    for entry in sorted(entries):
        grouped.setdefault(entry.sid, []).append(entry.principal)
    return grouped


class Severity(IntEnum):
    """The order in which the response lists results."""

    FAILED = auto()
    ROLE_REFUSED = auto()
    DENIED = auto()
    CHANGED = auto()
    UNLISTED = auto()
    SKIPPED = auto()
    UNCHANGED = auto()

    @classmethod
    def of(cls, result: Result) -> "Severity":
        """Return the severity of a result."""
        if result.outcome is Outcome.FAILED and result.reason:
            return cls.FAILED
        if result.refused:
            return cls.ROLE_REFUSED
        if result.denied_by:
            return cls.DENIED
        match result.outcome:
            case Outcome.UNCHANGED:
                return cls.UNLISTED if result.unlisted else cls.UNCHANGED
            case Outcome.ATTACHED | Outcome.WOULD_ATTACH:
                return cls.CHANGED
        return cls.SKIPPED

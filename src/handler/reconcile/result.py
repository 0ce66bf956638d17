"""The result of reconciling one repository."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum, auto

from handler.policy.denials import Denial, denials_details
from handler.policy.grants import Grantee, by_grant
from handler.policy.plan import is_deleted

WHY_MISSING = (
    "it does not exist, or was created less than a minute ago, or its account has not enabled this region. "
    "Create it, or take it out of WorkerRoleArns or DescribeRoleArns"
)


class Outcome(StrEnum):
    """The outcome of reconciling one repository."""

    ATTACHED = auto()
    REMOVED = auto()
    UNCHANGED = auto()
    WOULD_ATTACH = auto()
    WOULD_REMOVE = auto()
    INCOMPLETE = auto()  # some roles have their grants, and others lack them
    OUT_OF_SCOPE = auto()
    GONE = auto()
    FAILED = auto()
    INTERRUPTED = auto()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of reconciling one repository.

    Attributes:
        repository: its name.
        outcome: the outcome.
        added: the grantees that our statements gained.
        removed: the grantees that our statements lost.
        missing_roles: the roles that lack a grant because they do not exist.
        denied_by: the foreign statements that deny the grants.
        error: what else went wrong.
        unlisted: the grantees of our statements that no grant lists.
        not_removed: the Sids whose unlisted grantees were to be removed and stayed, because every role of the
            grant is missing.
        out_of_scope_grants: the configured roles in our statements of a repository out of scope.
    """

    repository: str
    outcome: Outcome
    added: frozenset[Grantee] = frozenset()
    removed: frozenset[Grantee] = frozenset()
    missing_roles: tuple[str, ...] = ()
    denied_by: tuple[Denial, ...] = ()
    error: str = ""
    unlisted: frozenset[Grantee] = frozenset()
    not_removed: tuple[str, ...] = ()
    out_of_scope_grants: frozenset[Grantee] = frozenset()

    @property
    def lacks_grant(self) -> bool:
        """Whether a role lacks a grant."""
        return self.outcome in {Outcome.FAILED, Outcome.INCOMPLETE}

    @property
    def is_uneventful_inspection(self) -> bool:
        """Whether nothing is to be said of a repository out of scope."""
        return self.outcome is Outcome.OUT_OF_SCOPE and not (self.out_of_scope_grants or self.error)

    @property
    def recreated(self) -> tuple[str, ...]:
        """The roles that took the place of a deleted role's id: most likely, they were recreated."""
        ids = Counter(sid for sid, name in self.removed if is_deleted(name) and name.startswith("AROA"))
        added = Counter(each.sid for each in self.added)
        # More roles than ids: some are new, and nothing shows which.
        return tuple(sorted({name for sid, name in self.added if added[sid] <= ids[sid]}))

    @property
    def reason(self) -> str:
        """Why a role lacks a grant, or why the repository was interrupted."""
        missing = f"missing: {', '.join(self.missing_roles)}: {WHY_MISSING}" if self.missing_roles else ""
        return ". ".join(filter(None, (self.error, missing)))

    def details(self) -> dict[str, object]:
        """Return the fields that are not empty, for the log and the report."""
        known = {
            "repository": self.repository,
            "outcome": self.outcome.value,
            "added": by_grant(self.added),
            "removed": by_grant(self.removed),
            "recreated": list(self.recreated),
            "missing_roles": list(self.missing_roles),
            **denials_details(self.denied_by),
            "unlisted": by_grant(self.unlisted),
            "not_removed": list(self.not_removed),
            "out_of_scope_grants": by_grant(self.out_of_scope_grants),
            "reason": self.reason,
        }
        return {key: value for key, value in known.items() if value}

"""The registry's policy: whether it already allows, or denies, what the function grants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from fnmatch import fnmatchcase

from handler.policy.denials import Denial, applies_to, covers, denials, denials_details
from handler.policy.document import Policy, Statement, statements, strings
from handler.policy.grants import PULL, REQUIRED_PULL_ACTIONS, Grant
from handler.policy.plan import foreign

# No repository name holds this character, so only a wildcard matches it.
_ANY_NAMES = ("\x00" * 2, "\x00" * 256)


class Status(StrEnum):
    """What the registry's policy means for the pull by the worker roles."""

    ALLOWS = auto()
    ALLOWS_SOME_ROLES = auto()
    CONDITIONAL = auto()
    DENIES = auto()
    SILENT = auto()
    UNKNOWN = auto()


_NOTES = {
    Status.ALLOWS: (
        "it allows the worker roles the pull in every repository: you need this function only for other "
        "grants, or if that statement is removed"
    ),
    Status.DENIES: "its Deny overrides every grant: ask the owner of the statement to change it",
    Status.CONDITIONAL: "a condition decides, or a Deny of some repositories: neither is evaluated",
}


@dataclass(frozen=True, slots=True)
class RegistryPolicy:
    """What the registry's policy says on the grants.

    Attributes:
        status: what it means for the pull by the worker roles.
        allowed: the roles that it allows the pull in every repository of the region.
        denied_by: its statements that deny a grant, in some repositories or in all.
        note: what follows from that.
    """

    status: Status
    allowed: tuple[str, ...] = ()
    denied_by: tuple[Denial, ...] = ()
    note: str = ""

    def details(self) -> dict[str, object]:
        """Return the fields that are not empty, for the log and the report."""
        details = {
            "status": self.status.value,
            "allowed": list(self.allowed),
            **denials_details(self.denied_by),
            "note": self.note,
        }
        return {key: value for key, value in details.items() if value}


def evaluate(policy: Policy | None, grants: Sequence[Grant], repository_arn_prefix: str) -> RegistryPolicy:
    """Evaluate a registry policy, or None if there is none.

    The rules are those of the IAM user guide, "IAM JSON policy elements". Conditions are not evaluated. The
    prefix is the ARN of a repository, without its name.
    """
    roles = next(grant.roles for grant in grants if grant.sid == PULL)
    allowed = _allowed(policy, roles, repository_arn_prefix, conditional=False)
    denied_by = _denials(policy, grants, repository_arn_prefix)
    refusing = [denial for denial in denied_by if denial.refuses_pull]
    if any(not denial.conditional for denial in refusing):
        status = Status.DENIES
    elif refusing:
        status = Status.CONDITIONAL
    elif allowed == roles:
        status = Status.ALLOWS
    elif _allowed(policy, roles, repository_arn_prefix, conditional=True) != allowed:
        status = Status.CONDITIONAL
    else:
        status = Status.ALLOWS_SOME_ROLES if allowed else Status.SILENT
    return RegistryPolicy(status, allowed, denied_by, _NOTES.get(status, ""))


def _denials(policy: Policy | None, grants: Sequence[Grant], prefix: str) -> tuple[Denial, ...]:
    """Return the denials; those that do not cover every repository are conditional."""
    everywhere = {label for label, each in foreign(policy) if _covers_every_repository(each, prefix)}
    return tuple(
        denial if denial.statement in everywhere else replace(denial, conditional=True)
        for denial in denials(policy, grants)
    )


def _allowed(
    policy: Policy | None, roles: Sequence[str], prefix: str, *, conditional: bool
) -> tuple[str, ...]:
    """Return the roles that are allowed to pull from every repository, perhaps under a condition."""
    allows = [
        statement
        for statement in statements(policy)
        if statement.get("Effect") == "Allow"
        and (conditional or not statement.get("Condition"))
        and _covers_every_repository(statement, prefix)
    ]
    return tuple(
        role
        for role in roles
        if all(
            any(covers(statement, action) and applies_to(statement, role) for statement in allows)
            for action in REQUIRED_PULL_ACTIONS
        )
    )


def _covers_every_repository(statement: Statement, prefix: str) -> bool:
    patterns = [pattern.replace("[", "[[]") for pattern in strings(statement.get("Resource")) or ()]
    return any(all(fnmatchcase(prefix + name, pattern) for name in _ANY_NAMES) for pattern in patterns)

"""What a resource policy means for one role and one action: the statements, and what they decide. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, auto
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from handler.policy.denials import applies_to, covers
from handler.policy.document import Policy, Statement, statements, strings
from handler.policy.plan import is_deleted

if TYPE_CHECKING:
    from collections.abc import Iterable


class Decision(StrEnum):
    """What policies decide on an action."""

    ALLOWED = auto()
    CONDITIONAL = auto()
    DENIED = auto()
    NOT_ALLOWED = auto()


class Through(StrEnum):
    """How a statement names the role."""

    ROLE = "the role"
    ACCOUNT = "the role's account"
    EVERYONE = "everyone"


@dataclass(frozen=True, slots=True)
class Role:
    """A role that pulls.

    Attributes:
        arn: its ARN.
        unique_id: its id, if known.
        has_boundary: whether it has a permissions boundary, as far as known.
    """

    arn: str
    unique_id: str = ""
    has_boundary: bool = False

    @property
    def partition(self) -> str:
        """The partition of its account."""
        return self.arn.split(":")[1]

    @property
    def account(self) -> str:
        """Its account."""
        return self.arn.split(":")[4]

    @property
    def name(self) -> str:
        """Its name, without the path."""
        return self.arn.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Finding:
    """A statement that applies to a role and an action.

    Attributes:
        policy: the policy that holds it, for people.
        statement: its Sid in quotes, or its number.
        denies: whether its effect is Deny.
        through: how it names the role.
        condition: what it depends on; empty if it always applies.
    """

    policy: str
    statement: str
    denies: bool
    through: Through
    condition: str = ""

    @property
    def name(self) -> str:
        """The statement and its policy, for people."""
        return f"statement {self.statement} in the {self.policy}"

    @property
    def names_role(self) -> bool:
        """Whether it allows the role itself, and does not only let the account allow the role."""
        return self.through is not Through.ACCOUNT


def findings(
    policy: Policy | None, role: Role, action: str, *, source: str, resource: str = ""
) -> tuple[Finding, ...]:
    """Find the statements of a policy that apply to the role and the action.

    The rules are those of the IAM user guide, "IAM JSON policy elements". Conditions are only named.

    Args:
        policy: a repository's policy, or that of a registry.
        role: the role.
        action: the action.
        source: the name of the policy, for people.
        resource: the ARN of the repository; empty for a repository's own policy, which has no resources.
    """
    return tuple(
        Finding(source, label, denies, through, ", ".join(filter(None, (condition, session, variable))))
        for label, statement in _labelled(policy)
        if statement.get("Effect") in {"Allow", "Deny"}
        if covers(statement, action)
        for denies in (statement.get("Effect") == "Deny",)
        for through, session in _applies(statement, role, denies=denies)
        for variable in _resource_conditions(statement, resource)
        for condition in (_condition(statement),)
    )


def decide(found: Iterable[Finding]) -> Decision:
    """Return what the statements of all resource policies decide together."""
    found = list(found)
    if any(each.denies and not each.condition for each in found):
        return Decision.DENIED
    allows = [each for each in found if not each.denies]
    if not allows:
        return Decision.NOT_ALLOWED
    certain = any(not each.condition for each in allows)
    return Decision.ALLOWED if certain and len(allows) == len(found) else Decision.CONDITIONAL


def uncertain(found: Iterable[Finding], reason: str) -> tuple[Finding, ...]:
    """Return statements that apply only if something else is true."""
    return tuple(replace(each, condition=each.condition or reason) for each in found)


def deleted_ids(policy: Policy | None) -> list[str]:
    """Return the ids of deleted principals that a policy names."""
    return sorted({name for _, each in _labelled(policy) for name in _aws(each) if is_deleted(name)})


def similar_principals(policy: Policy | None, role: Role) -> list[str]:
    """Return the principals that are no match and look like the role: another path, or a session."""
    named = {name for _, each in _labelled(policy) for name in _aws(each)}
    prefix = f"arn:{role.partition}:iam::{role.account}:role/"
    return sorted(
        name
        for name in named - {role.arn}
        if name.startswith(prefix) and name.rpartition("/")[2].lower() == role.name.lower()
    )


def _labelled(policy: Policy | None) -> list[tuple[str, Statement]]:
    return [
        (f'"{sid}"' if isinstance(sid := statement.get("Sid"), str) else f"number {number}", statement)
        for number, statement in enumerate(statements(policy), start=1)
    ]


def _applies(statement: Statement, role: Role, *, denies: bool) -> list[tuple[Through, str]]:
    """Return how the statement names the role, and on which session that depends, if at all."""
    named = set(_aws(statement))
    if "NotPrincipal" in statement:
        # AWS: a Deny with NotPrincipal always denies a role with a permissions boundary.
        exempt = not applies_to(statement, role.arn)
        if exempt and not (denies and role.has_boundary and "*" not in named):
            return []
        return [(Through.EVERYONE, "")]
    if role.arn in named or (role.unique_id and role.unique_id in named):
        return [(Through.ROLE, "")]
    if "*" in named:
        return [(Through.EVERYONE, "")]
    if applies_to(statement, role.arn):
        return [(Through.ACCOUNT, "")]
    session = f"arn:{role.partition}:sts::{role.account}:assumed-role/{role.name}/"
    if sessions := sorted(name for name in named if name.startswith(session)):
        return [(Through.ROLE, f"only the session {', '.join(sessions)}")]
    return []


def _resource_conditions(statement: Statement, resource: str) -> list[str]:
    """Return an empty condition if the resource matches, and another one if a variable decides."""
    if not resource:
        return [""]
    element = "NotResource" if "NotResource" in statement else "Resource"
    patterns = strings(statement.get(element)) or []
    if any("${" in pattern for pattern in patterns):
        return [f"a policy variable in {element}"]
    matches = any(fnmatchcase(resource, pattern.replace("[", "[[]")) for pattern in patterns)
    return [""] if matches == (element == "Resource") else []


def _condition(statement: Statement) -> str:
    condition = statement.get("Condition")
    if not condition:
        return ""
    if not isinstance(condition, dict):
        return "a condition"
    operators = (
        f"{operator} {key}"
        for operator, keys in condition.items()
        for key in (keys if isinstance(keys, dict) else [""])
    )
    return ", ".join(operators).strip() or "a condition"


def _aws(statement: Statement) -> list[str]:
    element = statement.get("Principal", statement.get("NotPrincipal"))
    if element == "*":
        return ["*"]
    return (strings(element.get("AWS")) or []) if isinstance(element, dict) else []

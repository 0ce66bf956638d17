"""Foreign statements: which deny the grant, and which may make ECR reject the policy. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from handler.policy import PULL_ACTIONS, deleted, foreign
from handler.policy_document import Policy, Statement, strings

# Statements, their elements, and what a principal or a condition holds.
_POLICY_LEVELS = 6


@dataclass(frozen=True, slots=True)
class Denial:
    """A foreign statement that denies roles the pull, always or under its condition."""

    statement: str
    roles: tuple[str, ...]
    conditional: bool


def denials(policy: Policy | None, roles: Sequence[str]) -> tuple[Denial, ...]:
    """Find the foreign statements that deny any of the roles one of the three pull actions.

    The rules are those of the IAM user guide, "IAM JSON policy elements". A condition is not evaluated,
    and a statement that denies a single session of a role is not found.
    """
    return tuple(
        Denial(name, denied, conditional=bool(statement.get("Condition")))
        for name, statement in foreign(policy)
        if statement.get("Effect") == "Deny" and _covers_pull_action(statement)
        if (denied := tuple(role for role in roles if _applies_to(statement, role)))
    )


def deleted_principals(policy: Policy | None) -> list[str]:
    """Describe the foreign statements that name deleted principals, each with the ids."""
    return [
        f"statement {name} names {', '.join(sorted(gone))}"
        for name, statement in foreign(policy)
        if (gone := deleted(_aws_principals(statement)))
    ]


def canonical_form(policy: Policy | None) -> object:
    """Return a value that is equal for policies whose foreign statements differ in order and form only."""
    return _canonical([statement for _, statement in foreign(policy)], levels=_POLICY_LEVELS)


def _canonical(value: object, levels: int) -> object:
    if not levels:
        return json.dumps(value, sort_keys=True)
    if isinstance(value, dict):
        return frozenset((key, _canonical(item, levels - 1)) for key, item in value.items())
    # ECR returns a list of one as its item, and longer lists in an order that changes.
    items = value if isinstance(value, list) else [value]
    return frozenset(_canonical(item, levels - 1) if isinstance(item, dict) else repr(item) for item in items)


def _covers_pull_action(statement: Statement) -> bool:
    if "NotAction" in statement:
        return any(not _matches(statement["NotAction"], action) for action in PULL_ACTIONS)
    return any(_matches(statement.get("Action"), action) for action in PULL_ACTIONS)


def _matches(actions: object, action: str) -> bool:
    # Brackets are a wildcard for fnmatch, but not in an AWS policy.
    globs = (glob.lower().replace("[", "[[]") for glob in strings(actions) or ())
    return any(fnmatchcase(action.lower(), glob) for glob in globs)


def _applies_to(statement: Statement, role: str) -> bool:
    _, partition, _, _, account, _ = role.split(":")
    whole_account = {account, f"arn:{partition}:iam::{account}:root"}
    named = set(_aws_principals(statement))
    if "NotPrincipal" in statement:
        # AWS evaluates the account first: an exception needs both it and the role.
        return "*" not in named and not (role in named and named & whole_account)
    return not named.isdisjoint({"*", role} | whole_account)


def _aws_principals(statement: Statement) -> list[str]:
    element = statement.get("Principal", statement.get("NotPrincipal"))
    if element == "*":
        return ["*"]
    return (strings(element.get("AWS", [])) or []) if isinstance(element, dict) else []

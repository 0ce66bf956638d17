"""AWS's rules for a resource policy, written for the tests alone: it shares nothing with the code under test.

The rules are those of the IAM user guide, "Policy evaluation logic" and "IAM JSON policy elements".
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum

type Conditions = Callable[[object], bool]


class Decision(Enum):
    ALLOWED = "an Allow and no Deny"
    DENIED = "a Deny"
    NEITHER = "neither an Allow nor a Deny"


def decide(policy: Mapping[str, object] | None, principal: str, action: str, holds: Conditions) -> Decision:
    """Decide whether the policy lets an IAM principal do something, if these conditions hold."""
    effects = {
        statement["Effect"]
        for statement in _listed((policy or {}).get("Statement", []))
        if isinstance(statement, dict)
        and _names(statement, principal)
        and _covers(statement, action)
        and ("Condition" not in statement or holds(statement["Condition"]))
    }
    if "Deny" in effects:
        return Decision.DENIED
    return Decision.ALLOWED if "Allow" in effects else Decision.NEITHER


def _names(statement: Mapping[str, object], principal: str) -> bool:
    root = f"arn:{principal.split(':')[1]}:iam::{principal.split(':')[4]}:root"
    account = {principal.split(":")[4], root}
    if "NotPrincipal" in statement:
        # The exception needs both the principal and its account, which AWS weighs first.
        excepted = _aws_principals(statement["NotPrincipal"])
        return "*" not in excepted and not (principal in excepted and account & excepted)
    return not _aws_principals(statement.get("Principal")).isdisjoint({"*", principal} | account)


def _aws_principals(element: object) -> set[object]:
    if element == "*":
        return {"*"}
    return set(_listed(element.get("AWS", []))) if isinstance(element, dict) else set()


def _covers(statement: Mapping[str, object], action: str) -> bool:
    if "NotAction" in statement:
        return not _matches_action(statement["NotAction"], action)
    return _matches_action(statement.get("Action", []), action)


def _matches_action(element: object, action: str) -> bool:
    return any(
        re.fullmatch(re.escape(str(glob)).replace(r"\*", ".*").replace(r"\?", "."), action, re.IGNORECASE)
        for glob in _listed(element)
    )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]

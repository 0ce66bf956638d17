"""Evaluates resource policies by AWS's rules, for tests only. Shares no code with the handler.

The rules are from the IAM user guide: "Policy evaluation logic" and "IAM JSON policy elements".
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache

type Conditions = Callable[[object], bool]


class Decision(Enum):
    ALLOWED = "an Allow and no Deny"
    DENIED = "a Deny"
    NEITHER = "neither an Allow nor a Deny"


def decide(policy: Mapping[str, object] | None, principal: str, action: str, holds: Conditions) -> Decision:
    """Evaluate a policy for an IAM principal and an action. `holds` evaluates conditions."""
    effects = {
        statement["Effect"]
        for statement in _as_list((policy or {}).get("Statement", []))
        if isinstance(statement, dict)
        and _matches_principal(statement, principal)
        and _matches_action(statement, action)
        and ("Condition" not in statement or holds(statement["Condition"]))
    }
    if "Deny" in effects:
        return Decision.DENIED
    return Decision.ALLOWED if "Allow" in effects else Decision.NEITHER


def _matches_principal(statement: Mapping[str, object], principal: str) -> bool:
    root = f"arn:{principal.split(':')[1]}:iam::{principal.split(':')[4]}:root"
    account = {principal.split(":")[4], root}
    if "NotPrincipal" in statement:
        # AWS evaluates the account first, so an exception must list the principal and its account.
        exceptions = _aws_principals(statement["NotPrincipal"])
        return "*" not in exceptions and not (principal in exceptions and account & exceptions)
    return not _aws_principals(statement.get("Principal")).isdisjoint({"*", principal} | account)


def _aws_principals(element: object) -> set[object]:
    if element == "*":
        return {"*"}
    return set(_as_list(element.get("AWS", []))) if isinstance(element, dict) else set()


def _matches_action(statement: Mapping[str, object], action: str) -> bool:
    if "NotAction" in statement:
        return not _matches_glob(statement["NotAction"], action)
    return _matches_glob(statement.get("Action", []), action)


def _matches_glob(element: object, action: str) -> bool:
    return any(_pattern(str(glob)).fullmatch(action) for glob in _as_list(element))


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(re.escape(glob).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]

"""The form of a repository policy that ECR accepts, by the grammar of IAM's user guide and ECR's examples.

ECR documents less than IAM. Where it documents nothing, the assumption here is:
- A Sid is any string: AWS's own examples contain spaces. Two statements can share one, as stored policies do.
- An action is `*` or one of ECR. A principal is `*`, or of AWS, a service or an identity provider.
- An element that IAM's grammar doesn't know, or an empty list, makes a policy invalid.
"""

from __future__ import annotations

import re
from typing import Any

_VERSIONS = ("2012-10-17", "2008-10-17")
_ELEMENTS = {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Condition"}
_PRINCIPAL_TYPES = {"AWS", "Service", "Federated"}
_ACTION = re.compile(r"\*|ecr:[a-z*?]+", re.IGNORECASE)


def is_valid(policy: Any) -> bool:  # noqa: ANN401 - JSON
    """Return whether the form of a policy is valid. Its principals may still not exist."""
    if not isinstance(policy, dict) or not policy.keys() <= {"Version", "Id", "Statement"}:
        return False
    statements = policy.get("Statement")
    statements = [statements] if isinstance(statements, dict) else statements
    return (
        policy.get("Version", _VERSIONS[0]) in _VERSIONS
        and isinstance(policy.get("Id", ""), str)
        and isinstance(statements, list)
        and bool(statements)
        and all(_is_statement(statement) for statement in statements)
    )


def _is_statement(statement: Any) -> bool:  # noqa: ANN401 - JSON
    return (
        isinstance(statement, dict)
        and statement.keys() <= _ELEMENTS
        and isinstance(statement.get("Sid", ""), str)
        and statement.get("Effect") in ("Allow", "Deny")
        and ("Principal" in statement) != ("NotPrincipal" in statement)
        and _is_principal(statement.get("Principal", statement.get("NotPrincipal")))
        and ("Action" in statement) != ("NotAction" in statement)
        and _are_actions(statement.get("Action", statement.get("NotAction")))
        and _is_condition(statement.get("Condition", {}))
    )


def _is_principal(element: Any) -> bool:  # noqa: ANN401 - JSON
    return element == "*" or (
        isinstance(element, dict)
        and bool(element)
        and element.keys() <= _PRINCIPAL_TYPES
        and all(_are_strings(names) for names in element.values())
    )


def _are_actions(element: Any) -> bool:  # noqa: ANN401 - JSON
    names = [element] if isinstance(element, str) else element
    return _are_strings(element) and all(_ACTION.fullmatch(name) for name in names)


def _is_condition(element: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(element, dict) and all(isinstance(keys, dict) for keys in element.values())


def _are_strings(element: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(element, str) or (
        isinstance(element, list) and bool(element) and all(isinstance(each, str) for each in element)
    )

"""What the answers of IAM's policy simulation mean for the role's side of a pull. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.access import Decision
from cli.diagnose.facts import Simulated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_iam.type_defs import EvaluationResultTypeDef

_ALLOWED, _EXPLICIT_DENY = "allowed", "explicitDeny"


def interpret(result: EvaluationResultTypeDef) -> Simulated:
    """Return what an answer means for the role's side alone.

    For a repository of another account, the simulation also expects the repository's policy, which it cannot
    read, and so answers `implicitDeny`. The decision of the role's own policies is then among the details of
    the decision, or shows in the statements that match.
    """
    if not result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations", True):
        return Simulated(Decision.DENIED, "a policy of the organization does not allow it")
    decision = _own_decision(result)
    missing = _missing_keys(result)
    boundary = result.get("PermissionsBoundaryDecisionDetail", {}).get("AllowedByPermissionsBoundary", True)
    if not boundary and decision != _EXPLICIT_DENY:
        return Simulated(Decision.DENIED, "the role's permissions boundary does not allow it")
    if missing:
        return Simulated(Decision.CONDITIONAL, ", ".join(missing))
    return {
        _ALLOWED: Simulated(Decision.ALLOWED),
        _EXPLICIT_DENY: Simulated(Decision.DENIED, f"a Deny in {_policies(result)}"),
    }.get(decision, Simulated(Decision.NOT_ALLOWED, "no policy of the role allows it"))


def _own_decision(result: EvaluationResultTypeDef) -> str:
    decision = result["EvalDecision"]
    details: Mapping[str, str] = result.get("EvalDecisionDetails") or {}
    own = {value for key, value in details.items() if "resource" not in key.lower()}
    if _EXPLICIT_DENY in own or decision != "implicitDeny":
        return _EXPLICIT_DENY if _EXPLICIT_DENY in own else decision
    return _ALLOWED if _ALLOWED in own or result.get("MatchedStatements") else decision


def _missing_keys(result: EvaluationResultTypeDef) -> list[str]:
    specific = (
        key
        for each in result.get("ResourceSpecificResults", ())
        for key in each.get("MissingContextValues", ())
    )
    return sorted({*result.get("MissingContextValues", ()), *specific})


def _policies(result: EvaluationResultTypeDef) -> str:
    ids = sorted({each.get("SourcePolicyId", "") for each in result.get("MatchedStatements", ())} - {""})
    return f"the policy {', '.join(ids)}" if ids else "a policy of the role"

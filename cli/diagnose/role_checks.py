"""The checks of the role's side: the role, its policies, and what its account's organization allows. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.access import Decision, decide
from cli.diagnose.check import Check, Mark, joined
from cli.diagnose.facts import OPTIONAL, TOKEN, Facts, Simulated, Unknown
from cli.diagnose.policy_checks import resource_findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ROLE, _POLICIES, _TOKEN_CHECK = "role", "role policies", "authorization token"
_NOT_SIMULATED = Simulated(Decision.NOT_ALLOWED, "no answer of the simulation")
_ALLOW = "Allow {} in the role's own policy, for example with AmazonEC2ContainerRegistryPullOnly."


def role_checks(facts: Facts) -> Iterator[Check]:
    """Yield the checks of the role's side, in order."""
    side = facts.role_side
    if side is None:
        yield Check(
            _ROLE,
            Mark.UNKNOWN,
            f"the role's own side is unknown: no credentials for account {facts.role.account}",
            f"Add --role-profile, or run in that account: {facts.role_command}",
        )
        return
    if exists := _role(facts, side.found_arn):
        yield exists
        if exists.mark is Mark.FAILED:
            return
    if isinstance(side.simulated, Unknown):
        fix = f"Run with a permission for it: {facts.role_command}"
        yield Check(_POLICIES, Mark.UNKNOWN, f"the role's policies are unknown: {side.simulated.reason}", fix)
        return
    yield _token(side.simulated.get(TOKEN, _NOT_SIMULATED))
    yield _pull(facts, side.simulated)
    if _decision(facts, OPTIONAL, side.simulated) not in {Decision.ALLOWED, Decision.CONDITIONAL}:
        reason = f"the role's side does not allow {OPTIONAL}: Docker and containerd pull without it"
        yield Check("optional action", Mark.NOTE, reason)


def _role(facts: Facts, found: str | Unknown | None) -> Check | None:
    arn = facts.role.arn
    match found:
        case Unknown(reason):
            return Check(_ROLE, Mark.NOTE, f"whether {arn} exists was not checked: {reason}")
        case None:
            fix = "Create the role, or correct its ARN in WorkerRoleArns."
            return Check(
                _ROLE, Mark.FAILED, f"the role {facts.role.name} does not exist in {facts.role.account}", fix
            )
        case str() if found != arn:
            return Check(
                _ROLE,
                Mark.FAILED,
                f"the role {facts.role.name} has another path: its ARN is {found}",
                f"Use {found} in WorkerRoleArns and for --role.",
            )
    return Check(_ROLE, Mark.OK, f"{arn} exists")


def _token(simulated: Simulated) -> Check:
    match simulated.decision:
        case Decision.ALLOWED:
            return Check(_TOKEN_CHECK, Mark.OK, f"the role's policies allow {TOKEN}")
        case Decision.CONDITIONAL:
            return Check(_TOKEN_CHECK, Mark.UNKNOWN, f"{TOKEN} depends on a condition: {simulated.reason}")
    return Check(_TOKEN_CHECK, Mark.FAILED, f"{TOKEN} is denied: {simulated.reason}", _ALLOW.format(TOKEN))


def _pull(facts: Facts, simulated: Mapping[str, Simulated]) -> Check:
    decisions = {action: _decision(facts, action, simulated) for action in facts.needed}
    for decision, mark in ((Decision.DENIED, Mark.FAILED), (Decision.NOT_ALLOWED, Mark.FAILED)):
        if actions := [action for action, each in decisions.items() if each is decision]:
            why = simulated.get(actions[0], _NOT_SIMULATED).reason
            fix = "" if decision is Decision.DENIED else _ALLOW.format(joined(actions))
            return Check(_POLICIES, mark, f"{joined(actions)} is denied: {why}", fix)
    if actions := [action for action, each in decisions.items() if each is Decision.CONDITIONAL]:
        why = simulated.get(actions[0], _NOT_SIMULATED).reason or "see the checks above"
        return Check(_POLICIES, Mark.UNKNOWN, f"{joined(actions)} depends on a condition: {why}")
    return Check(_POLICIES, Mark.OK, f"the role is allowed {joined(list(facts.needed))}")


def _decision(facts: Facts, action: str, simulated: Mapping[str, Simulated]) -> Decision:
    """Return the decision on the role's side. In one account, a resource policy can allow the role itself."""
    own = simulated.get(action, _NOT_SIMULATED)
    if own.decision is not Decision.NOT_ALLOWED or not facts.is_same_account:
        return own.decision
    return decide(each for each in resource_findings(facts, action) if each.denies or each.names_role)

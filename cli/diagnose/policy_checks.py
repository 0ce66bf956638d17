"""The checks of both resource policies: the repository's and the registry's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.access import Decision, decide, deleted_ids, findings, similar_principals, uncertain
from cli.diagnose.check import Check, Mark, joined
from cli.diagnose.facts import CREATE, IMPORT, OPTIONAL, CacheRule, Facts, Unknown
from cli.plan.today import REGISTRY_POLICY, REPOSITORY_POLICY, SCOPE_V1

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cli.access import Finding
    from handler.policy.document import Policy

# All that a registry policy of scope V1 decides on.
_V1_ACTIONS = (IMPORT, CREATE, "ecr:ReplicateImage")
_UNKNOWN_SCOPE = "the scope of the registry policy is V2"
_GRANT = "Run the function for this repository, and see docs/troubleshooting.md#missing-grant."


def policy_checks(facts: Facts) -> Iterator[Check]:
    """Yield the checks of both policies."""
    yield _repository_policy(facts)
    yield _registry_policy(facts)


def resource_findings(facts: Facts, action: str) -> tuple[Finding, ...]:
    """Return the statements of both resource policies that apply to the action, as far as they are known."""
    return (*_repository_findings(facts, action), *_registry_findings(facts, action))


def repository_policy(facts: Facts) -> Policy | Unknown | None:
    """Return the repository's policy, or the one that it gets when the cache creates it."""
    rule = facts.registry.cache_rule
    return (
        rule.template_policy
        if facts.creates_repository and isinstance(rule, CacheRule)
        else facts.registry.policy
    )


def _repository_policy(facts: Facts) -> Check:
    policy = repository_policy(facts)
    name = REPOSITORY_POLICY
    if isinstance(policy, Unknown):
        return Check(name, Mark.UNKNOWN, f"the repository policy is unknown: {policy.reason}")
    own = {action: _repository_findings(facts, action) for action in facts.needed}
    both = {action: resource_findings(facts, action) for action in facts.needed}
    if denied := _denials(own):
        return denied
    if doubtful := _conditional(facts, own, both):
        return doubtful
    # CreateRepository is for the registry policy: a repository that does not exist has no policy.
    lacking = [action for action, found in both.items() if decide(found) is Decision.NOT_ALLOWED]
    if not lacking:
        granted = [action for action in facts.needed if decide(own[action]) is Decision.ALLOWED]
        if not granted:
            return Check(name, Mark.NOTE, "no statement allows the pull, and the registry policy does")
        return Check(name, Mark.OK, _allowed_by({action: own[action] for action in granted}))
    if isinstance(facts.registry.registry_policy, Unknown) or isinstance(facts.registry.scope, Unknown):
        reason = (
            f"no statement allows {joined(lacking)} for {facts.role.arn}, and the registry policy is unknown"
        )
        return Check(name, Mark.UNKNOWN, reason)
    return _lacking(facts, policy, lacking)


def _lacking(facts: Facts, policy: Policy | None, lacking: Sequence[str]) -> Check:
    name, role = REPOSITORY_POLICY, facts.role.arn
    reason = f"no statement allows {joined(list(lacking))} for {role}"
    if facts.is_same_account:
        reason = f"{reason}: in the registry's own account, the role's policies can allow it instead"
        return Check(name, Mark.NOTE, reason)
    if similar := similar_principals(policy, facts.role):
        return Check(
            name,
            Mark.FAILED,
            f"{reason}; the policy names {joined(similar)}, which is another principal",
            "Correct the role's ARN, with its path, in the policy and in WorkerRoleArns.",
        )
    if ids := deleted_ids(policy):
        return Check(
            name,
            Mark.FAILED,
            f"{reason}; the policy names {joined(ids)}, the id of a deleted role: if the role was created "
            "again, it is another principal",
            _GRANT,
        )
    if set(lacking) == {IMPORT}:
        return Check(name, Mark.FAILED, reason, "Add the repository to PullThroughCacheRepositories.")
    if facts.creates_repository and CREATE not in lacking and IMPORT not in lacking:
        fix = (
            "Give the new repository a policy with a creation template: "
            "see docs/configuration.md#creation-template."
        )
        return Check(name, Mark.FAILED, reason, fix)
    if CREATE in lacking:
        fix = "Add a statement to the registry policy: see docs/troubleshooting.md#pull-through-caches."
        return Check(name, Mark.FAILED, reason, fix)
    return Check(name, Mark.FAILED, reason, _GRANT)


def _registry_policy(facts: Facts) -> Check:
    name, registry = REGISTRY_POLICY, facts.registry
    if isinstance(registry.registry_policy, Unknown):
        return Check(name, Mark.UNKNOWN, f"the registry policy is unknown: {registry.registry_policy.reason}")
    if registry.registry_policy is None:
        return Check(name, Mark.OK, "the registry has no policy")
    own = {action: _registry_findings(facts, action) for action in facts.needed}
    if denied := _denials(own):
        return denied
    both = {action: resource_findings(facts, action) for action in facts.needed}
    if doubtful := _conditional(facts, own, both):
        return doubtful
    allowed = {action: found for action, found in own.items() if decide(found) is Decision.ALLOWED}
    if allowed:
        return Check(name, Mark.OK, _allowed_by(allowed))
    if registry.scope == SCOPE_V1:
        return Check(name, Mark.OK, "its scope is V1, so it decides on replication and caches only")
    return Check(name, Mark.OK, "no statement decides on this pull")


def _denials(own: dict[str, tuple[Finding, ...]]) -> Check | None:
    for action, found in own.items():
        for each in found:
            if each.denies and not each.condition:
                actions = [one for one, others in own.items() if each in others] or [action]
                return Check(
                    each.policy,
                    Mark.FAILED,
                    f"{each.name} denies {joined(actions)} to {each.through.value}",
                    "Ask the owner of the statement to change it: a Deny overrides every grant.",
                )
    return None


def _conditional(
    facts: Facts, own: dict[str, tuple[Finding, ...]], both: dict[str, tuple[Finding, ...]]
) -> Check | None:
    """Return the first statement whose condition decides. In one account, only a Deny always matters."""
    for action, found in own.items():
        for each in found:
            matters = each.denies if facts.is_same_account else decide(both[action]) is Decision.CONDITIONAL
            if each.condition and matters:
                effect = "denies" if each.denies else "allows"
                return Check(
                    each.policy,
                    Mark.UNKNOWN,
                    f"{each.name} {effect} {action} only under a condition: {each.condition}",
                    "Check whether the condition holds for a pull by the node.",
                )
    return None


def _allowed_by(own: dict[str, tuple[Finding, ...]]) -> str:
    names = dict.fromkeys(each.name for found in own.values() for each in found if not each.denies)
    return f"{joined(list(names))} allows {joined(list(own))}"


def _repository_findings(facts: Facts, action: str) -> tuple[Finding, ...]:
    policy = repository_policy(facts)
    if isinstance(policy, Unknown) or action == CREATE:
        return ()
    return findings(policy, facts.role, action, source=REPOSITORY_POLICY)


def _registry_findings(facts: Facts, action: str) -> tuple[Finding, ...]:
    policy, scope = facts.registry.registry_policy, facts.registry.scope
    if isinstance(policy, Unknown) or (scope == SCOPE_V1 and action not in _V1_ACTIONS):
        return ()
    found = findings(policy, facts.role, action, source=REGISTRY_POLICY, resource=facts.repository_arn)
    if isinstance(scope, Unknown) and action not in _V1_ACTIONS:
        return uncertain(found, f"{_UNKNOWN_SCOPE} ({scope.reason})")
    return found


def optional_action(facts: Facts) -> Check | None:
    """Return a note if the registry's side does not allow the optional action."""
    if (
        decide(resource_findings(facts, OPTIONAL)) in {Decision.ALLOWED, Decision.CONDITIONAL}
        or facts.is_same_account
    ):
        return None
    reason = f"the registry's side does not allow {OPTIONAL}: Docker and containerd pull without it"
    return Check("optional action", Mark.NOTE, reason)

"""The grant AllowPull alone, for tests that need no other."""

from collections.abc import Sequence

from handler.policy.document import Policy
from handler.policy.grants import PULL, Grant
from handler.policy.plan import grantees_of, plan


def attach_pull(policy: Policy | None, roles: Sequence[str], *, remove_unlisted: bool = False) -> Policy:
    """Plan the policy in which AllowPull names the roles, which must fit."""
    planned = plan(policy, [Grant(PULL, tuple(roles))], remove_unlisted=remove_unlisted)
    assert planned.policy is not None
    assert not planned.unfit
    return planned.policy


def pull_roles(policy: Policy | None) -> set[str]:
    """Return the principals of AllowPull."""
    return {grantee.principal for grantee in grantees_of(policy) if grantee.sid == PULL}

"""The grant AllowPull alone, for tests that need no other."""

from collections.abc import Sequence

from handler.policy.document import Policy
from handler.policy.grants import PULL, Grant
from handler.policy.plan import attach, entries_of


def attach_pull(
    policy: Policy | None,
    roles: Sequence[str],
    *,
    remove_unlisted: bool = False,
    remove_deleted: bool = False,
) -> Policy:
    """Plan the policy in which AllowPull names the roles."""
    attached = attach(
        policy,
        [Grant(PULL, tuple(roles))],
        remove_unlisted={PULL} if remove_unlisted else (),
        remove_deleted=remove_deleted,
    )
    assert attached is not None
    return attached


def pull_roles(policy: Policy | None) -> set[str]:
    """Return the principals of AllowPull."""
    return {entry.principal for entry in entries_of(policy) if entry.sid == PULL}

"""The planner: the policy that one repository should have, as far as ECR is asked to accept it. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from handler.policy.grants import Entry, Grant
from handler.policy.plan import attach
from handler.policy.document import Policy, statements


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the policy of a repository.

    Attributes:
        grants: the repository's grants.
        remove_unlisted: whether our statements lose the principals that no grant lists.
    """

    grants: tuple[Grant, ...]
    remove_unlisted: bool

    def plan(
        self,
        current: Policy | None,
        granted: Collection[Entry],
        roles: Collection[str] = (),
        *,
        without_deleted: bool,
    ) -> Policy | None:
        """Plan the policy in which the roles have their grants.

        Args:
            current: the repository's policy; the result is the same object if nothing is to change.
            granted: the entries that it has, or that ECR has accepted: a read may lag behind a write.
            roles: the roles to add.
            without_deleted: if anything else changes, our statements lose the ids of deleted principals too.
        """
        grants = [grant.limited_to(roles, granted) for grant in self.grants]
        removable = self._removable(grants)
        planned = attach(current, grants, remove_unlisted=removable)
        if planned is not current and without_deleted:
            planned = attach(current, grants, remove_unlisted=removable, remove_deleted=True)
        # ECR takes no policy without statements, and to delete a policy is another permission.
        return planned if statements(planned) else current

    def plan_without_new_roles(self, current: Policy | None, granted: Collection[Entry]) -> Policy | None:
        """Plan the policy without further roles, and without ids of deleted principals in our statements."""
        planned = attach(self.plan(current, granted, without_deleted=False), (), remove_deleted=True)
        return planned if statements(planned) else current

    def _removable(self, grants: Sequence[Grant]) -> set[str]:
        """Return the Sids that lose unlisted principals: not those that would keep no configured role."""
        if not self.remove_unlisted:
            return set()
        return {
            grant.sid
            for grant, configured in zip(grants, self.grants, strict=True)
            if grant.roles or not configured.roles
        }

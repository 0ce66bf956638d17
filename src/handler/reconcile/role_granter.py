"""Grants the roles in one repository: all at once, or one by one where ECR rejects one of them."""

from collections import deque
from collections.abc import Iterable, Sequence

from handler.policy.grants import Grant, roles_of
from handler.reconcile.planner import Planner
from handler.reconcile.policy_writer import PolicyWriter, Rejected, SweepContext
from handler.ecr.registry import PolicyRejected
from handler.reconcile.rejections import Rejection, principal_hint
from handler.ecr.retry import DeadlineExceeded


class RoleGranter:
    """Grants the roles in one repository, as far as ECR accepts them.

    Attributes:
        skipped: the roles that were not tried, because they are proved not to exist.
    """

    def __init__(self, writer: PolicyWriter, grants: tuple[Grant, ...], context: SweepContext) -> None:
        """Prepare for the repository of the writer, which has these grants."""
        self._writer = writer
        self._planner = Planner(grants, context.settings.remove_unlisted_roles)
        self._knowledge = context.knowledge
        self._deadline = context.deadline
        self.skipped: set[str] = set()

    def grant(self) -> dict[str, Rejection]:
        """Grant the roles, all at once or else one by one. Return the rejections of the roles tried.

        Raises:
            PolicyRejected: ECR rejects the policy whatever the roles are.
            InvalidPolicy: the policy cannot be parsed, and is not rewritten.
            RegistryError: ECR refused a call.
            DeadlineExceeded: the deadline passed.
        """
        self.skipped.update(self._knowledge.missing)
        roles = [role for role in roles_of(self._planner.grants) if role not in self.skipped]
        try:
            self._write_with(roles)
        except Rejected as rejected:
            return self._grant_separately(rejected)
        return {}

    def _grant_separately(self, rejected: Rejected) -> dict[str, Rejection]:
        match rejected.roles:
            case [role]:
                rejections = {role: rejected.rejection}
            case several:
                rejections = self._grant_one_by_one(several)
        if self._writer.accepted_contents is None and self._planner.remove_unlisted:
            self._remove_unlisted()
        if self._writer.accepted_contents is None:
            self._obtain_proof(rejections)
        return rejections

    def _remove_unlisted(self) -> None:
        """Remove the unlisted principals, and add no role: a rejected role does not keep others' access.

        Raises:
            PolicyRejected: ECR rejects the policy without the role too, so another principal is the cause.
        """
        try:
            self._write_with(())
        except Rejected as rejected:
            raise self._rejected_anyway(rejected) from None

    def _grant_one_by_one(self, roles: Iterable[str]) -> dict[str, Rejection]:
        """Grant each role that ECR accepts; return the rejections since the last role that it accepted."""
        waiting = deque(roles)
        rejections: dict[str, Rejection] = {}
        while len(rejections) < len(waiting):
            role = waiting.popleft()
            if role in self._knowledge.missing:  # another thread has proved that meanwhile
                self.skipped.add(role)
                continue
            if self._deadline.passed():
                raise DeadlineExceeded("ECR rejects one of several roles, and there was no time to try each")
            try:
                self._write_with([role])
            except Rejected as rejected:
                waiting.append(role)
                rejections[role] = rejected.rejection
            else:
                rejections.clear()
        return rejections

    def _write_with(self, roles: Sequence[str]) -> None:
        """Grant the roles; without the ids of deleted principals in our statements if ECR rejects these.

        Raises:
            Rejected: ECR does not accept the policy.
        """

        def write(*, without_deleted: bool) -> bool:
            return self._writer.update(
                lambda current: self._planner.plan(
                    current, self._writer.granted, roles, without_deleted=without_deleted
                )
            )

        try:
            write(without_deleted=self._knowledge.deleted_ids_rejected)
        except Rejected as rejected:
            if not rejected.holds_deleted_ids:
                raise
            if write(without_deleted=True) and not rejected.rejection.too_long:
                self._knowledge.record_deleted_ids_rejected()

    def _obtain_proof(self, rejections: dict[str, Rejection]) -> None:
        """Write the policy without the rejected roles. If ECR accepts it, the roles are the cause.

        The write only obtains a proof, so it is made in few repositories.

        Raises:
            PolicyRejected: ECR rejects it too, so another principal is the cause.
        """
        unproved = {role for role, each in rejections.items() if each.others and not each.too_long}
        if not unproved - self._knowledge.missing:
            return
        # If principals are to be removed, the report must say why they stay.
        if not self._planner.remove_unlisted and not self._knowledge.count_unproved_rejection():
            return
        try:
            self._writer.update(
                lambda current: self._planner.plan_without_new_roles(current, self._writer.granted),
                force=True,
            )
        except Rejected as rejected:
            raise self._rejected_anyway(rejected) from None

    def _rejected_anyway(self, rejected: Rejected) -> PolicyRejected:
        if rejected.rejection.too_long:
            return PolicyRejected(str(rejected))
        return PolicyRejected(f"{rejected}. {principal_hint(self._writer.current)}")

"""The reconciler: brings one repository to the desired state."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from handler.denials import denials
from handler.grants import Grant, roles_of
from handler.policy import attach
from handler.policy_document import InvalidPolicy, Policy
from handler.policy_writer import Context, PolicyWriter, Rejected
from handler.registry import PolicyRejected, RegistryError, RepositoryNotFound
from handler.rejections import Rejection, principal_hint, proved_missing, rejection_reason
from handler.result import Outcome, Result
from handler.retry import DeadlineExceeded


def reconcile(name: str, context: Context) -> Result:
    """Attach every grant of the repository, as far as ECR accepts its roles. A failure is a result.

    ECR rejects a whole policy for one principal that does not exist, and does not say which. Then the roles
    are granted one by one.
    """
    reconciliation = _Reconciliation(name, context)
    try:
        return reconciliation.run()
    except RepositoryNotFound:
        return Result(name, Outcome.GONE)
    except DeadlineExceeded as error:
        return reconciliation.result(Outcome.INTERRUPTED, reason=f"no attempt succeeded in time: {error}")
    except (RegistryError, InvalidPolicy) as error:
        return reconciliation.result(Outcome.FAILED, reason=str(error))


class _Reconciliation:
    """The reconciliation of one repository."""

    def __init__(self, name: str, context: Context) -> None:
        self._name = name
        self._grants = context.settings.grants(name)
        self._remove_unlisted = context.settings.remove_unlisted_roles
        self._roles = context.roles
        self._changed = Outcome.WOULD_ATTACH if context.dry_run else Outcome.ATTACHED
        self._writer = PolicyWriter(name, self._grants, context)

    def run(self) -> Result:
        """Attach the grants; return the result.

        Raises:
            InvalidPolicy: the policy cannot be parsed, and is not rewritten.
            RegistryError: ECR refused a call, or rejects the policy whatever the roles are.
            DeadlineExceeded: the deadline passed.
        """
        rejections = self._grant([role for role in roles_of(self._grants) if role not in self._roles.missing])
        missing = proved_missing(rejections, self._writer.accepted_contents)
        self._roles.prove_missing(missing)
        lacking = roles_of([grant.without(self._writer.granted) for grant in self._grants])
        refused = [role for role in lacking if role in missing | self._roles.missing]
        unproved = {role: rejections[role] for role in lacking if role in rejections.keys() - set(refused)}
        if unproved:
            reason = rejection_reason(self._writer.present, unproved, self._roles.existing)
            return self.result(Outcome.FAILED, refused, reason)
        result = self.result(Outcome.UNCHANGED, refused)
        if result.added or result.removed:
            return replace(result, outcome=self._changed)
        if refused:
            return replace(result, outcome=Outcome.FAILED, reason="the roles that it lacks do not exist")
        return result

    def result(self, outcome: Outcome, refused: Sequence[str] = (), reason: str = "") -> Result:
        """Return the result, with what was changed so far."""
        return Result(
            self._name,
            outcome,
            added=self._writer.added,
            removed=self._writer.removed,
            refused=tuple(refused),
            denied_by=denials(self._writer.present, self._grants),
            reason=reason,
        )

    def _grant(self, roles: Sequence[str]) -> dict[str, Rejection]:
        """Grant the roles, all at once or else one by one; return the rejections of the others."""
        try:
            self._apply(roles)
        except Rejected as rejected:
            match rejected.roles:
                case []:
                    raise self._rejected_anyway(rejected) from None
                case [role]:
                    rejections = {role: rejected.rejection}
                case several:
                    rejections = self._grant_one_by_one(several)
        else:
            return {}
        if self._writer.accepted_contents is None:
            self._prove(rejections)
        return rejections

    def _grant_one_by_one(self, roles: Iterable[str]) -> dict[str, Rejection]:
        """Grant each role that ECR accepts; return the rejections since the last role that it accepted."""
        waiting = deque(roles)
        rejections: dict[str, Rejection] = {}
        while len(rejections) < len(waiting):
            role = waiting.popleft()
            if role in self._roles.missing:  # another thread has proved that meanwhile
                rejections.pop(role, None)
                continue
            try:
                self._apply([role])
            except Rejected as rejected:
                waiting.append(role)
                rejections[role] = rejected.rejection
            else:
                rejections.clear()
        return rejections

    def _apply(self, roles: Sequence[str]) -> None:
        """Grant the roles; without the ids of deleted principals in our statements if ECR rejects these.

        Raises:
            Rejected: ECR does not accept the policy.
        """
        plan = partial(self._plan, roles)
        try:
            self._writer.update(partial(plan, without_deleted=self._roles.deleted_ids_rejected))
        except Rejected as rejected:
            if not rejected.holds_deleted_ids:
                raise
            self._writer.update(partial(plan, without_deleted=True))
            if not rejected.rejection.too_long:
                self._roles.prove_deleted_ids_rejected()

    def _prove(self, rejections: dict[str, Rejection]) -> None:
        """Write the policy without the rejected roles. If ECR accepts it, the roles are the cause.

        Such a write changes little or nothing. So it has to save attempts on many other repositories.

        Raises:
            PolicyRejected: ECR rejects it too, so another principal is the cause.
        """
        doubtful = {role for role, rejection in rejections.items() if not rejection.too_long}
        if not doubtful - proved_missing(rejections, None) - self._roles.missing:
            return
        if not self._roles.count_unproved_rejection():
            return
        try:
            self._writer.update(self._plan_without_new_roles, always=True)
        except Rejected as rejected:
            raise self._rejected_anyway(rejected) from None

    def _rejected_anyway(self, rejected: Rejected) -> PolicyRejected:
        return PolicyRejected(f"{rejected}. {principal_hint(self._writer.present)}")

    def _plan(self, roles: Sequence[str], present: Policy | None, *, without_deleted: bool) -> Policy | None:
        # What was accepted before is asked for again, for the read may lag behind the write.
        wanted = [grant.limited_to(roles, self._writer.granted) for grant in self._grants]
        planned = attach(present, wanted, remove_unlisted=self._removable(wanted))
        if planned is present or not without_deleted:
            return planned
        return attach(present, wanted, remove_unlisted=self._removable(wanted), remove_deleted=True)

    def _plan_without_new_roles(self, present: Policy | None) -> Policy | None:
        planned = self._plan((), present, without_deleted=True)
        return attach(planned, (), remove_deleted=True)

    def _removable(self, wanted: Sequence[Grant]) -> set[str]:
        """Return the grants that lose unlisted roles: not those of which no listed role would be left."""
        if not self._remove_unlisted:
            return set()
        return {
            grant.sid
            for grant, configured in zip(wanted, self._grants, strict=True)
            if grant.roles or not configured.roles
        }

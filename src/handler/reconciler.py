"""The reconciler: brings one repository to the desired state."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from traceback import extract_tb

from handler.denials import denials
from handler.grants import Entry, roles_of
from handler.observability import logger
from handler.planner import Planner
from handler.policy import granted
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
    except Exception as error:  # noqa: BLE001 - not even a bug in one reconciliation stops the others
        # The error's own text may hold parts of a policy.
        kind = type(error).__name__
        frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
        logger.error("internal error", extra={"repository": name, "error": kind, "at": frames})
        reason = f"unexpected {kind}, a bug of this function; the log says where"
        return reconciliation.result(Outcome.FAILED, reason=reason)


class _Reconciliation:
    """The reconciliation of one repository."""

    def __init__(self, name: str, context: Context) -> None:
        self._name = name
        self._grants = context.settings.grants(name)
        self._remove_unlisted = context.settings.remove_unlisted_roles
        self._planner = Planner(self._grants, self._remove_unlisted)
        self._knowledge = context.knowledge
        self._skipped: set[str] = set()
        self._deadline = context.deadline
        self._changed = Outcome.WOULD_ATTACH if context.dry_run else Outcome.ATTACHED
        self._writer = PolicyWriter(name, self._grants, context)

    def run(self) -> Result:
        """Attach the grants; return the result.

        Raises:
            InvalidPolicy: the policy cannot be parsed, and is not rewritten.
            RegistryError: ECR refused a call, or rejects the policy whatever the roles are.
            DeadlineExceeded: the deadline passed.
        """
        self._skipped.update(self._knowledge.missing)
        rejections = self._grant([role for role in roles_of(self._grants) if role not in self._skipped])
        missing = proved_missing(rejections, self._writer.accepted_contents) - self._knowledge.existing
        self._knowledge.record_missing(missing)
        lacking = roles_of([grant.without(self._writer.granted) for grant in self._grants])
        refused = [role for role in lacking if role in missing | self._skipped]
        unproved = {role: rejections[role] for role in lacking if role in rejections.keys() - set(refused)}
        if unproved:
            reason = rejection_reason(self._writer.present, unproved, self._knowledge.existing)
            return self.result(Outcome.FAILED, refused, reason)
        result = self.result(Outcome.UNCHANGED, refused)
        if result.added or result.removed:
            return replace(result, outcome=self._changed)
        if refused:
            return replace(result, outcome=Outcome.FAILED)
        return result

    def result(self, outcome: Outcome, refused: Sequence[str] = (), reason: str = "") -> Result:
        """Return the result, with what was changed so far."""
        unlisted = granted(self._writer.present).difference(*(grant.entries() for grant in self._grants))
        return Result(
            self._name,
            outcome,
            added=self._writer.added,
            removed=self._writer.removed,
            refused=tuple(refused),
            denied_by=denials(self._writer.present, self._grants),
            reason=reason,
            unlisted=unlisted,
            not_removed=self._not_removed(unlisted, refused),
        )

    def _not_removed(self, unlisted: Iterable[Entry], refused: Sequence[str]) -> tuple[str, ...]:
        """Return the Sids that keep unlisted entries because no accepted role could take their place."""
        kept = {entry.sid for entry in unlisted} if self._remove_unlisted else set()
        return tuple(
            grant.sid
            for grant in self._grants
            if grant.sid in kept and refused and set(grant.roles) <= set(refused)
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
        if self._writer.accepted_contents is None and self._remove_unlisted:
            self._remove()
        if self._writer.accepted_contents is None:
            self._prove(rejections)
        return rejections

    def _remove(self) -> None:
        """Remove the unlisted principals, and add no role: a rejected role does not keep others' access.

        Raises:
            PolicyRejected: ECR rejects the policy without the role too, so another principal is the cause.
        """
        try:
            self._apply(())
        except Rejected as rejected:
            raise self._rejected_anyway(rejected) from None

    def _grant_one_by_one(self, roles: Iterable[str]) -> dict[str, Rejection]:
        """Grant each role that ECR accepts; return the rejections since the last role that it accepted."""
        waiting = deque(roles)
        rejections: dict[str, Rejection] = {}
        while len(rejections) < len(waiting):
            role = waiting.popleft()
            if role in self._knowledge.missing:  # another thread has proved that meanwhile
                self._skipped.add(role)
                rejections.pop(role, None)
                continue
            if self._deadline.passed():
                raise DeadlineExceeded("ECR rejects one of several roles, and there was no time to try each")
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

        def plan(present: Policy | None, *, without_deleted: bool) -> Policy | None:
            return self._planner.plan(present, self._writer.granted, roles, without_deleted=without_deleted)

        try:
            self._writer.update(partial(plan, without_deleted=self._knowledge.deleted_ids_rejected))
        except Rejected as rejected:
            if not rejected.holds_deleted_ids:
                raise
            written = self._writer.update(partial(plan, without_deleted=True))
            if written and not rejected.rejection.too_long:
                self._knowledge.record_deleted_ids_rejected()

    def _prove(self, rejections: dict[str, Rejection]) -> None:
        """Write the policy without the rejected roles. If ECR accepts it, the roles are the cause.

        The write only obtains a proof, so it is made in few repositories.

        Raises:
            PolicyRejected: ECR rejects it too, so another principal is the cause.
        """
        doubtful = {role for role, rejection in rejections.items() if not rejection.too_long}
        if not doubtful - proved_missing(rejections, None) - self._knowledge.missing:
            return
        # If principals are to be removed, the report must say why they stay.
        if not self._remove_unlisted and not self._knowledge.count_unproved_rejection():
            return
        try:
            self._writer.update(
                lambda present: self._planner.plan_without_new_roles(present, self._writer.granted),
                always=True,
            )
        except Rejected as rejected:
            raise self._rejected_anyway(rejected) from None

    def _rejected_anyway(self, rejected: Rejected) -> PolicyRejected:
        hint = "" if rejected.rejection.too_long else f". {principal_hint(self._writer.present)}"
        return PolicyRejected(f"{rejected}{hint}")

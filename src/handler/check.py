"""The check: read, decide, and write if needed, for one repository."""

from handler import policy
from handler.foreign import deleted_principals, denials, names_principals
from handler.policy import Policy
from handler.registry import PrincipalRefused, Registry, RegistryError
from handler.result import Outcome, Result
from handler.settings import Settings


class Check:
    """The check of one repository, by one try or several.

    Every try begins with a new read and ends with one write at most, right after it. So what others
    wrote before that read stays, however many tries it takes.

    ECR refuses a whole policy for one principal that does not exist, and does not say which. The
    check then finds out: without the ids of deleted principals in our statement, and role by role.
    """

    def __init__(
        self, name: str, settings: Settings, registry: Registry, refused: set[str], *, dry_run: bool
    ) -> None:
        """Prepare the check.

        Args:
            name: the repository.
            settings: what it should carry.
            registry: where it is.
            refused: the roles of which the sweep knows that ECR refuses them; the check adds to it.
            dry_run: write nothing.
        """
        self._name = name
        self._settings = settings
        self._registry = registry
        self._known_refused = refused
        self._dry_run = dry_run
        self._refused_here: set[str] = set()
        self._refusal: PrincipalRefused | None = None
        self._role_by_role = False
        self._without_deleted = False
        self._some_accepted = False
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def attempt(self) -> Result | None:
        """Try once; give the result, or None if there is more to try.

        Raises:
            InvalidPolicy: the repository's policy cannot be understood, and is not rewritten.
            PolicyTooLong: ECR would refuse the policy for its length.
            RegistryError: ECR refused; Unavailable if it is worth another try.
        """
        present = policy.parse(self._registry.policy_text(self._name))
        granted = policy.granted(present)
        refused = self._refused_here | self._known_refused
        missing = [role for role in self._settings.worker_role_arns if role not in granted | refused]
        adding = missing[:1] if self._role_by_role else missing
        wanted = self._with(present, granted.union(adding))
        if wanted is None or wanted == present:
            return self._result(present)
        text = policy.render(wanted)
        gained, lost = policy.granted(wanted) - granted, granted - policy.granted(wanted)
        self._added |= gained
        self._removed |= lost
        if self._dry_run:
            return self._result(wanted)
        try:
            self._registry.set_policy_text(self._name, text)
        except PrincipalRefused as refusal:
            self._added -= gained
            self._removed -= lost
            self._learn(present, adding, refusal)
            return None
        self._some_accepted = True
        return self._result(wanted) if adding == missing else None

    def _with(self, present: Policy | None, granted: frozenset[str]) -> Policy | None:
        roles = [role for role in self._settings.worker_role_arns if role in granted]
        if not roles:
            return present
        return policy.attach(
            present,
            roles,
            remove_unlisted=self._settings.remove_unlisted_roles,
            remove_deleted=self._without_deleted,
        )

    def _learn(self, present: Policy | None, adding: list[str], refusal: PrincipalRefused) -> None:
        """Choose what to leave out of the next try."""
        self._refusal = refusal
        if not self._without_deleted and policy.deleted(policy.granted(present)):
            self._without_deleted = True
            return
        self._without_deleted = False
        if len(adding) > 1:
            self._role_by_role = True
        elif adding:
            self._refused_here.update(adding)
        else:
            raise RegistryError(self._blame(present))

    def _result(self, final: Policy | None) -> Result:
        roles = self._settings.worker_role_arns
        refused = tuple(role for role in roles if role not in policy.granted(final))
        reason = "ECR refuses the roles that are missing" if refused else ""
        if self._refused_here and not self._some_accepted and deleted_principals(final):
            refused, reason = (), self._blame(final)
        elif self._some_accepted or not names_principals(final):
            # Nothing else in the policy can be why ECR refused it with these.
            self._known_refused |= self._refused_here
        # A write of which the answer was lost may have been taken all the same.
        if self._added or self._removed:
            outcome, reason = (Outcome.WOULD_ATTACH if self._dry_run else Outcome.ATTACHED), ""
        else:
            outcome = Outcome.FAILED if reason else Outcome.UNCHANGED
        return Result(
            self._name,
            outcome,
            added=tuple(sorted(self._added)),
            removed=tuple(sorted(self._removed)),
            refused=refused,
            denied_by=denials(final, roles),
            reason=reason,
        )

    def _blame(self, present: Policy | None) -> str:
        gone = deleted_principals(present)
        if gone:
            return (
                f"{self._refusal}. A principal of somebody else's was deleted: {'; '.join(gone)}. "
                "Take it out of that statement, which is not ours to change"
            )
        return f"{self._refusal}. Find the principal in the repository's policy that does not exist any more"

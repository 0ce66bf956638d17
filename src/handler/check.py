"""The check: read, decide, and write if needed, for one repository."""

from collections import Counter
from dataclasses import replace

from handler import policy
from handler.foreign import deleted_principals, denials, meaning, names_nobody_who_may_be_gone
from handler.policy import Policy
from handler.registry import PrincipalRefused, Registry, RegistryError, Throttled, Unavailable
from handler.result import Outcome, Result
from handler.settings import Settings

# In so many repositories, with nothing else in their policies that could be why.
_REFUSALS_THAT_PROVE = 3


class Roles:
    """What the checks of a sweep have learned of the worker roles: whom ECR accepts, and whom not."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.accepted: set[str] = set()
        self._refusals: Counter[str] = Counter()

    def refuse(self, role: str) -> None:
        """Note that ECR refused a policy that names nobody else who may not exist."""
        self._refusals[role] += 1

    def known_as_refused(self) -> set[str]:
        """Tell which roles no further repository needs to be tried with."""
        proven = {role for role, times in self._refusals.items() if times >= _REFUSALS_THAT_PROVE}
        return proven - self.accepted


class Check:
    """The check of one repository, by one try or several.

    Every try begins with a new read and ends with one write at most, right after it. So what others
    wrote before that read stays, however many tries it takes.

    ECR refuses a whole policy for one principal that does not exist, and does not say which. The
    check then finds out: without the ids of deleted principals in our statement, and role by role.
    """

    def __init__(
        self, name: str, settings: Settings, registry: Registry, roles: Roles, *, dry_run: bool
    ) -> None:
        """Prepare the check of a repository; in a `dry_run` nothing is written."""
        self._name = name
        self._settings = settings
        self._registry = registry
        self._roles = roles
        self._dry_run = dry_run
        self._present: Policy | None = None
        self._added: set[str] = set()
        self._removed: set[str] = set()
        self._begin_to_learn()

    def _begin_to_learn(self) -> None:
        self._learned_beside: object = None
        self._refusal: PrincipalRefused | None = None
        self._refused: set[str] = set()
        self._accepted: set[str] = set()
        self._role_by_role = False
        self._without_deleted = False

    def attempt(self) -> Result | None:
        """Try once; give the result, or None if there is more to try.

        Raises:
            InvalidPolicy: the repository's policy cannot be understood, and is not rewritten.
            PolicyTooLong: ECR would refuse the policy for its length.
            RegistryError: ECR refused; Unavailable if it is worth another try.
        """
        self._present = present = policy.parse(self._registry.policy_text(self._name))
        granted = policy.granted(present)
        self._start_again_if_others_wrote(present, granted)
        refused = self._refused | self._roles.known_as_refused()
        missing = [role for role in self._settings.worker_role_arns if role not in granted | refused]
        adding = missing[:1] if self._role_by_role else missing
        wanted = self._with(present, granted.union(adding))
        if wanted is None or wanted == present:
            return self._result(present)
        text = policy.render(wanted)
        gained, lost = policy.granted(wanted) - granted, granted - policy.granted(wanted)
        if not self._dry_run:
            try:
                self._registry.set_policy_text(self._name, text)
            except PrincipalRefused as refusal:
                self._learn(present, adding, refusal)
                return None
            except Unavailable as error:
                # The answer was lost; the write may have been taken all the same.
                if not isinstance(error, Throttled):
                    self._note(gained, lost)
                raise
            self._present = wanted
            self._accepted.update(adding)
            self._roles.accepted.update(adding)
        self._note(gained, lost)
        return self._result(wanted) if adding == missing else None

    def failed(self, reason: str) -> Result:
        """Give the result of a check that came to a bad end, with what was done before it."""
        return self._told(self._present, Outcome.FAILED, reason=reason)

    def _start_again_if_others_wrote(self, present: Policy | None, granted: frozenset[str]) -> None:
        """Forget what was learned beside another policy.

        Raises:
            Unavailable: there was something to forget. It counts as a try: others may go on writing.
        """
        alike = self._learned_beside is None or self._learned_beside == meaning(present)
        if alike and self._accepted <= granted:
            return
        self._begin_to_learn()
        raise Unavailable("others change the repository's policy at the same time, again and again")

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

    def _note(self, gained: frozenset[str], lost: frozenset[str]) -> None:
        self._added |= gained
        self._removed |= lost

    def _learn(self, present: Policy | None, adding: list[str], refusal: PrincipalRefused) -> None:
        """Choose what to leave out of the next try."""
        self._refusal = refusal
        self._learned_beside = meaning(present)
        if not self._without_deleted and policy.deleted(policy.granted(present)):
            self._without_deleted = True
            return
        self._without_deleted = False
        if len(adding) > 1:
            self._role_by_role = True
        elif adding:
            self._refused.update(adding)
        else:
            raise RegistryError(self._blame(present))

    def _result(self, final: Policy | None) -> Result:
        lacking = [role for role in self._settings.worker_role_arns if role not in policy.granted(final)]
        if self._is_to_blame(final):
            return self._told(final, Outcome.FAILED, reason=self._blame(final))
        if self._accepted or self._names_roles_alone(final):
            for role in self._refused:
                self._roles.refuse(role)
        told = self._told(final, Outcome.UNCHANGED)
        if told.added or told.removed:
            outcome = Outcome.WOULD_ATTACH if self._dry_run else Outcome.ATTACHED
        else:
            outcome = Outcome.FAILED if lacking else Outcome.UNCHANGED
        reason = "ECR refuses the worker roles that are missing" if lacking else ""
        return replace(told, outcome=outcome, refused=tuple(lacking), reason=reason)

    def _is_to_blame(self, final: Policy | None) -> bool:
        """Whether ECR may have refused the policy for something else in it than our roles."""
        if not self._refused or self._accepted:
            return False
        return bool(deleted_principals(final)) or bool(self._refused & self._roles.accepted)

    def _names_roles_alone(self, final: Policy | None) -> bool:
        ours = policy.granted(final) - set(self._settings.worker_role_arns)
        return not ours and names_nobody_who_may_be_gone(final)

    def _blame(self, final: Policy | None) -> str:
        gone = deleted_principals(final)
        if not gone:
            return (
                f"{self._refusal}. Find the principal in the repository's policy that does not exist any more"
            )
        doubted = sorted(self._refused - self._roles.accepted)
        otherwise = (
            f". Unless it is the worker role {', '.join(doubted)} that does not exist" if doubted else ""
        )
        return (
            f"{self._refusal}. A principal of somebody else's was deleted: {'; '.join(gone)}. "
            f"Have it taken out of that statement, which is not ours to change{otherwise}"
        )

    def _told(self, final: Policy | None, outcome: Outcome, reason: str = "") -> Result:
        granted = policy.granted(final)
        return Result(
            self._name,
            outcome,
            added=tuple(sorted(self._added & granted)),
            removed=tuple(sorted(self._removed - granted)),
            denied_by=denials(final, self._settings.worker_role_arns),
            reason=reason,
        )

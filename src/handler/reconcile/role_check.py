"""The role check: asks ECR whether roles exist, by a policy with one role in the stack's own repository.

ECR rejects a whole policy for one principal that does not exist, and does not say which principal. A policy
with one role alone, in a repository that is used for nothing else, gives the answer for that role.
"""

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from handler.ecr.errors import PolicyRejected, RegistryError, RepositoryNotFound
from handler.ecr.registry import Registry
from handler.ecr.retry import Deadline, DeadlineExceeded, retry_with_backoff
from handler.policy.document import render
from handler.policy.grants import PULL, Grantee
from handler.policy.plan import policy_with
from handler.settings import Settings

# Less than Lambda's first retry, after a minute: a retry sees a role that was created meanwhile.
_ANSWER_HOLDS = 45.0  # seconds


class RoleCheckFailed(Exception):
    """ECR did not say whether a role exists; the message says why, and how to restore the repository."""


class RoleCheck:
    """Asks ECR whether roles exist. The answers hold for 45 seconds. Threads share them."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        account: str,
        clock: Callable[[], float] = time.time,  # a monotonic clock may stop while Lambda freezes the process
    ) -> None:
        """Use the settings' repository. The registry's own account is a principal that exists."""
        self._registry = registry
        self._repository = settings.role_check_repository
        self._roles = settings.roles()
        self._account = account
        self._clock = clock
        self._lock = threading.Lock()
        # A refusal counts once it is clear that the repository is not the cause.
        self._confirmed = frozenset[str]()
        self._answers: dict[str, tuple[float, bool | RoleCheckFailed]] = {}

    def known_missing(self) -> frozenset[str]:
        """Return the configured roles that do not exist, as far as answers hold. Makes no call."""
        return self._refused(self._confirmed)

    def _refused(self, roles: frozenset[str]) -> frozenset[str]:
        return frozenset(role for role in roles if self._answer(role) is False)

    def missing(self, roles: Iterable[str], deadline: Deadline) -> frozenset[str]:
        """Return those of the roles that do not exist. Asks about each without an answer that holds.

        Raises:
            RoleCheckFailed: ECR refused a call for another reason; or it refuses every configured role, and
                an account that exists too.
            DeadlineExceeded: the deadline passed.
        """
        missing = frozenset(role for role in roles if not self._exists(role, deadline))
        # If all are missing, the repository may be the cause: then ECR rejects a principal that exists too.
        all_refused = bool(missing) and self._roles <= missing | self._refused(self._roles)
        if all_refused and not self._exists(self._account, deadline):
            self._confirmed = frozenset()
            raise RoleCheckFailed(
                f"ECR accepts no policy in the role check's repository {self._repository}, so it is unknown "
                "which roles are missing: delete the repository, and create it again with the same name"
            )
        with self._lock:
            self._confirmed |= missing
        return missing

    def _exists(self, principal: str, deadline: Deadline) -> bool:
        with self._lock:  # threads that ask about the same role at the same time cause one call
            answer = self._answer(principal)
            if answer is None:
                if deadline.passed():
                    raise DeadlineExceeded(f"there was no time to check whether {principal} exists")
                answer = self._ask(principal, deadline)
                self._answers[principal] = self._clock(), answer
        if isinstance(answer, RoleCheckFailed):
            raise answer.with_traceback(None)
        return answer

    def _answer(self, principal: str) -> bool | RoleCheckFailed | None:
        asked_at, answer = self._answers.get(principal, (0.0, None))
        return answer if self._clock() - asked_at < _ANSWER_HOLDS else None

    def _ask(self, principal: str, deadline: Deadline) -> bool | RoleCheckFailed:
        policy = policy_with(Grantee(PULL, principal))
        check = partial(self._registry.check_policy, self._repository, render(policy))
        try:
            retry_with_backoff(check, deadline)
        except PolicyRejected:
            return False
        except RepositoryNotFound as error:
            return RoleCheckFailed(
                f"the role check failed: {error}. Restore its repository: aws ecr create-repository "
                f"--repository-name {self._repository}"
            )
        except RegistryError as error:
            return RoleCheckFailed(f"the role check failed: {error}")
        return True

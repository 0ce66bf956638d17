"""The listing: the repositories in scope that globs match, page after page."""

from dataclasses import replace
from functools import partial

from handler.ecr.errors import RegistryError, Unavailable
from handler.ecr.registry import Registry
from handler.ecr.retry import Deadline, retry_with_backoff
from handler.events.request import Continuation
from handler.policy.scope import is_for_role_checks, is_glob, matches_any
from handler.settings import Settings

_MAX_RELISTINGS = 3


class Listing:
    """The listing of an invocation, which may continue that of the invocation before.

    Attributes:
        globs: the globs that are still to be listed; none once the last page is listed.
        lists_all: whether it returns repositories out of scope too, except those for role checks.
        continuation: where the listing continues, and which globs matched nothing so far.
    """

    def __init__(
        self,
        patterns: tuple[str, ...],
        continuation: Continuation,
        settings: Settings,
        registry: Registry,
        deadline: Deadline,
    ) -> None:
        """Prepare the listing for the globs among these patterns; the others are names."""
        self.globs = tuple(filter(is_glob, patterns))
        self.continuation = continuation
        self._inherited_token = continuation.token
        self._named = frozenset(patterns)
        self._scope = settings.scope
        self._registry = registry
        self._deadline = deadline
        # A narrowed scope leaves grants behind. With this setting, no other stack may have the same roles.
        self.lists_all = settings.remove_unlisted_roles and "*" in self.globs

    def next_page(self) -> list[str]:
        """Return the names on the next page that match a glob, except those that the request names itself.

        Raises:
            RegistryError: ECR refused the call.
            DeadlineExceeded: the deadline passed.
        """
        names, token = self._list()
        in_scope = [name for name in names if name in self._scope]
        unmatched = tuple(
            glob
            for glob in self.continuation.unmatched
            if not any(matches_any(name, [glob]) for name in in_scope)
        )
        self.continuation = replace(self.continuation, token=token, unmatched=unmatched)
        listed = [name for name in names if not is_for_role_checks(name)] if self.lists_all else in_scope
        matching = [name for name in listed if matches_any(name, self.globs) and name not in self._named]
        if token is None:
            self.globs = ()
        return matching

    def _list(self) -> tuple[list[str], str | None]:
        try:
            return self._call(self.continuation.token)
        except Unavailable:
            raise
        except RegistryError:
            # How long a token stays valid is not documented. One of the previous invocation may have expired.
            # A new listing costs one more read for each repository that is done.
            token, relistings = self.continuation.token, self.continuation.relistings
            if token is None or token != self._inherited_token or relistings == _MAX_RELISTINGS:
                raise
        self.continuation = replace(self.continuation, relistings=self.continuation.relistings + 1)
        return self._call(None)

    def _call(self, token: str | None) -> tuple[list[str], str | None]:
        page = partial(self._registry.list_repositories, token)
        return retry_with_backoff(page, self._deadline)

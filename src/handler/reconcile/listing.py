"""The listing: the repositories in scope that globs match, page after page."""

from dataclasses import replace
from functools import partial

from handler.ecr.errors import RegistryError, Throttled, Unavailable
from handler.ecr.registry import Registry
from handler.ecr.retry import Deadline, retry_with_backoff
from handler.events.request import Continuation
from handler.policy.scope import Scope, is_glob, matches_any

_MAX_RELISTINGS = 3


class Listing:
    """The listing of an invocation, which may continue that of the invocation before.

    Attributes:
        globs: the globs that are still to be listed; none once the last page is listed.
        continuation: where the listing continues, and which globs matched nothing so far.
    """

    def __init__(
        self,
        patterns: tuple[str, ...],
        continuation: Continuation,
        scope: Scope,
        registry: Registry,
        deadline: Deadline,
    ) -> None:
        """Prepare the listing for the globs among these patterns; the others are names."""
        self.globs = tuple(filter(is_glob, patterns))
        self.continuation = continuation
        self._inherited_token = continuation.token
        self._named = frozenset(patterns)
        self._scope = scope
        self._registry = registry
        self._deadline = deadline

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
        matching = [name for name in in_scope if matches_any(name, self.globs) and name not in self._named]
        if token is None:
            self.globs = ()
        return matching

    def _list(self) -> tuple[list[str], str | None]:
        try:
            return self._call(self.continuation.token)
        except Unavailable:
            raise
        except RegistryError:
            if not self._may_list_again():
                raise
        self.continuation = replace(self.continuation, relistings=self.continuation.relistings + 1)
        return self._call(None)

    def _may_list_again(self) -> bool:
        # How long a token stays valid is not documented. One of the previous invocation may have expired. A
        # new listing costs one more read for each repository that is done.
        token = self.continuation.token
        is_inherited = token is not None and token == self._inherited_token
        return is_inherited and self.continuation.relistings < _MAX_RELISTINGS

    def _call(self, token: str | None) -> tuple[list[str], str | None]:
        page = partial(self._registry.list_repositories, token)
        return retry_with_backoff(page, self._deadline, retryable=(Unavailable,), throttles=(Throttled,))

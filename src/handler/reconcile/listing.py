"""The listing: the repositories that globs match, page after page."""

from dataclasses import replace
from functools import partial

from handler.ecr.errors import RegistryError, Unavailable
from handler.ecr.registry import Listed, Registry
from handler.ecr.retry import Deadline, retry_with_backoff
from handler.events.request import Continuation
from handler.policy.scope import is_for_role_checks, is_glob, matches_any
from handler.settings import Settings

_MAX_RELISTINGS = 3
# Ten times the pages of the largest registry seen: a listing that has more does not end.
_MAX_PAGES = 1_000


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
        self._tokens = {continuation.token} - {None}
        self._named = frozenset(patterns)
        self._scope = settings.scope
        self._registry = registry
        self._deadline = deadline
        # A narrowed scope leaves grants behind. With this setting, no other stack may have the same roles.
        self.lists_all = settings.remove_unlisted_roles and "*" in self.globs

    def next_page(self) -> list[Listed]:
        """Return the repositories on the next page that match a glob, except those that the request names.

        Raises:
            RegistryError: ECR refused the call, or the listing does not end.
            DeadlineExceeded: the deadline passed.
        """
        repositories, token = self._list()
        in_scope = [each for each in repositories if each.name in self._scope]
        listed = [each for each in repositories if not is_for_role_checks(each.name)]
        matching = [
            each
            for each in (listed if self.lists_all else in_scope)
            if matches_any(each.name, self.globs) and each.name not in self._named
        ]
        unmatched = tuple(
            glob
            for glob in self.continuation.unmatched
            if not any(matches_any(each.name, [glob]) for each in in_scope)
        )
        pages = self.continuation.pages + 1
        self.continuation = replace(self.continuation, token=token, unmatched=unmatched, pages=pages)
        if token is None:
            self.globs = ()
        else:
            self._tokens.add(token)
        return matching

    def _list(self) -> tuple[list[Listed], str | None]:
        token = self.continuation.token
        try:
            page, following = self._call(token)
        except Unavailable:
            raise
        except RegistryError as error:
            # How long a token stays valid is not documented. One of the previous invocation may have expired.
            if token is None or token != self._inherited_token:
                raise
            return self._list_again(error)
        if following in self._tokens or self.continuation.pages >= _MAX_PAGES:
            return self._list_again(RegistryError("ECR's listing of repositories repeats and does not end"))
        return page, following

    def _list_again(self, error: RegistryError) -> tuple[list[Listed], str | None]:
        """Start the listing again. That costs one more read for each repository that is done."""
        if self.continuation.relistings == _MAX_RELISTINGS:
            raise error
        self.continuation = replace(self.continuation, relistings=self.continuation.relistings + 1, pages=0)
        self._tokens.clear()
        return self._call(None)

    def _call(self, token: str | None) -> tuple[list[Listed], str | None]:
        page = partial(self._registry.list_repositories, token)
        return retry_with_backoff(page, self._deadline)

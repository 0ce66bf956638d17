"""The listing: which repositories of each page it returns, where it continues, and when it starts again."""

from collections.abc import Mapping
from itertools import count

import pytest

from handler.ecr.errors import RegistryError, Unavailable
from handler.ecr.registry import Listed, Registry
from handler.ecr.retry import MAX_FAILURES, Deadline, DeadlineExceeded
from handler.events.request import Continuation
from handler.reconcile.listing import Listing
from handler.settings import Settings
from tests.environment import REQUIRED, ROLE_CHECK_REPOSITORY

REFUSED = RegistryError("Invalid parameter at 'nextToken'")
BUSY = Unavailable("try again later")
type Pages = Mapping[str | None, tuple[list[str], str | None] | RegistryError]

PAGE: Pages = {None: (["team/app", "ml/model", "scratch/app", ROLE_CHECK_REPOSITORY], None)}
PAGES: Pages = {None: (["a1"], "t1"), "t1": (["b1"], "t2"), "t2": (["c1"], None)}


class PagedRegistry(Registry):
    """A registry that answers each token with a page, and the token of the next one, or with an error."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.asked: list[str | None] = []

    def list_repositories(self, token: str | None = None) -> tuple[list[Listed], str | None]:
        self.asked.append(token)
        page = self.pages[token]
        if isinstance(page, RegistryError):
            raise page
        names, following = page
        return [Listed(name) for name in names], following


class EndlessRegistry(PagedRegistry):
    """A registry whose every page has a next one."""

    def __init__(self) -> None:
        super().__init__({})
        self._tokens = map(str, count())

    def list_repositories(self, token: str | None = None) -> tuple[list[Listed], str | None]:
        self.asked.append(token)
        return [], next(self._tokens)


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


def listing(
    pages: Pages | PagedRegistry,
    *patterns: str,
    continuation: Continuation | None = None,
    left: float = 900,
    **settings: str,
) -> Listing:
    registry = pages if isinstance(pages, PagedRegistry) else PagedRegistry(pages)
    return Listing(
        patterns or ("*",),
        continuation or Continuation(unmatched=patterns or ("*",)),
        Settings.from_environment(REQUIRED | settings),
        registry,
        Deadline(lambda: left, 0),
    )


def names(listing: Listing) -> list[str]:
    return [each.name for each in listing.next_page()]


def list_all(listing: Listing) -> None:
    while listing.globs:
        listing.next_page()


class TestAPage:
    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            (("*",), ["team/app", "ml/model"]),
            (("*/app",), ["team/app"]),
            (("*/app", "ml/*"), ["team/app", "ml/model"]),
            (("other/*",), []),
            # The sweep reconciles these by name.
            (("*", "team/app"), ["ml/model"]),
        ],
    )
    def test_is_what_globs_match_in_scope_and_no_pattern_names(
        self, patterns: tuple[str, ...], expected: list[str]
    ) -> None:
        assert names(listing(PAGE, *patterns, REPOSITORIES="*,!scratch/*")) == expected

    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            (("*",), ["team/app", "ml/model", "scratch/app"]),
            (("*", "scratch/app"), ["team/app", "ml/model"]),
            (("*/app",), ["team/app"]),
        ],
    )
    def test_of_a_sweep_of_all_that_removes_unlisted_roles_has_repositories_out_of_scope_too(
        self, patterns: tuple[str, ...], expected: list[str]
    ) -> None:
        one = listing(PAGE, *patterns, REPOSITORIES="*,!scratch/*", REMOVE_UNLISTED_ROLES="true")

        assert one.lists_all == ("*" in patterns)
        assert names(one) == expected

    def test_shows_which_globs_match_something_in_scope(self) -> None:
        patterns = ("team/*", "scratch/*", "other/*", "ecr-allow-pull-role-check/*")
        one = listing(PAGE, *patterns, REPOSITORIES="*,!scratch/*")

        names(one)

        assert one.continuation.unmatched == patterns[1:]

    def test_is_asked_for_again_if_ecr_is_busy(self) -> None:
        registry = PagedRegistry({None: BUSY})

        with pytest.raises(Unavailable):
            listing(registry).next_page()

        assert registry.asked == [None] * MAX_FAILURES

    def test_is_not_asked_for_again_after_the_deadline(self) -> None:
        registry = PagedRegistry({None: BUSY})

        with pytest.raises(DeadlineExceeded):
            listing(registry, left=0).next_page()

        assert registry.asked == [None]


class TestTheNextPage:
    def test_is_that_of_the_token_until_there_is_none(self) -> None:
        one = listing(PAGES, "*", "z*")
        listed = []

        while one.globs:
            listed.append((*names(one), one.continuation.token, one.continuation.pages, one.globs))

        assert listed == [("a1", "t1", 1, ("*", "z*")), ("b1", "t2", 2, ("*", "z*")), ("c1", None, 3, ())]
        assert one.continuation.unmatched == ("z*",)

    def test_is_that_of_the_invocation_before(self) -> None:
        before = Continuation("t1", unmatched=("z*",), pages=1, failed=("x",))
        one = listing(PAGES, "*", "z*", continuation=before)

        assert names(one) == ["b1"]
        assert one.continuation == Continuation("t2", unmatched=("z*",), pages=2, failed=("x",))


class TestATokenThatEcrRefuses:
    def test_of_the_invocation_before_starts_the_listing_again(self) -> None:
        pages: Pages = {None: (["a1"], "t2"), "t2": (["b1"], None), "old": REFUSED}
        one = listing(pages, continuation=Continuation("old", pages=7))

        assert [names(one), names(one)] == [["a1"], ["b1"]]
        assert (one.continuation.relistings, one.continuation.pages) == (1, 2)
        assert one.globs == ()

    @pytest.mark.parametrize("relistings", [0, 2, 3])
    def test_starts_it_again_three_times_in_a_sweep(self, relistings: int) -> None:
        registry = PagedRegistry({None: (["a1"], None), "old": REFUSED})
        one = listing(registry, continuation=Continuation("old", relistings=relistings))

        if relistings == 3:
            with pytest.raises(RegistryError, match="nextToken"):
                one.next_page()
            assert registry.asked == ["old"]
        else:
            assert names(one) == ["a1"]
            assert one.continuation.relistings == relistings + 1

    @pytest.mark.parametrize("before", [None, Continuation("old")])
    def test_of_this_invocation_is_an_error(self, before: Continuation | None) -> None:
        registry = PagedRegistry({None: ([], "new"), "old": ([], "new"), "new": REFUSED})
        one = listing(registry, continuation=before)
        names(one)

        with pytest.raises(RegistryError, match="nextToken"):
            one.next_page()

        assert registry.asked == [before.token if before else None, "new"]

    def test_is_an_error_of_the_first_page(self) -> None:
        registry = PagedRegistry({None: REFUSED})

        with pytest.raises(RegistryError, match="nextToken"):
            listing(registry).next_page()

        assert registry.asked == [None]

    def test_is_no_busy_ecr(self) -> None:
        registry = PagedRegistry({"old": BUSY})

        with pytest.raises(Unavailable):
            listing(registry, continuation=Continuation("old")).next_page()

        assert None not in registry.asked


class TestAListingThatDoesNotEnd:
    @pytest.mark.parametrize("before", [None, Continuation("t1")])
    def test_because_a_token_repeats_starts_again_three_times_and_is_an_error(
        self, before: Continuation | None
    ) -> None:
        registry = PagedRegistry({None: ([], "t1"), "t1": ([], "t2"), "t2": ([], "t1")})
        one = listing(registry, continuation=before)

        with pytest.raises(RegistryError, match="repeats and does not end"):
            list_all(one)

        assert registry.asked.count(None) == 3 + (before is None)
        # The repeated token is not asked for a second time.
        assert registry.asked.count("t1") == registry.asked.count("t2") == 4

    def test_because_it_has_more_than_a_thousand_pages_starts_again_three_times_and_is_an_error(self) -> None:
        registry = EndlessRegistry()
        one = listing(registry)

        with pytest.raises(RegistryError, match="repeats and does not end"):
            list_all(one)

        # The page after the thousandth is the one too many.
        first_pages = [number for number, token in enumerate(registry.asked) if token is None]
        assert first_pages == [0, 1001, 2002, 3003]

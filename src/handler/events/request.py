"""The request: which repositories to reconcile, and the payload that asks for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from handler.policy.scope import InvalidPattern, validate_pattern

type Json = Mapping[str, object]

# So many names, a page of names and twice the patterns fit into the payload of a continuation, 1 MB.
MAX_FAILED_NAMES = 1000
_MAX_PATTERNS = 100_000  # characters

# Errors show values up to this length, which is more than that of a repository name.
_MAX_SHOWN = 300  # characters

_EXPECTED_FORM = (
    'the payload must look like {"repositories": ["team/app", "ml/*"], "dry_run": true}: '
    '"repositories" lists names or globs ("*" for all in scope), "dry_run" is optional'
)


class InvalidEvent(ValueError):
    """An event or payload that cannot be processed; the message says why and gives the correct form."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """The state of a sweep that continues in a new invocation.

    Attributes:
        token: the next page to list, as ECR gave it; None for the first.
        unmatched: the globs that matched no repository so far.
        failed: the repositories that failed so far, and are to be reconciled once more at the end.
        failed_again: the repositories that failed once more.
        failed_more: how many failed beyond the `MAX_FAILED_NAMES` that are named.
        relistings: how often the listing started again, because ECR refused a token or repeated one.
        pages: how many pages were listed.
        of_all: whether the sweep is one of all repositories in scope.
    """

    token: str | None = None
    unmatched: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    failed_again: tuple[str, ...] = ()
    failed_more: int = 0
    relistings: int = 0
    pages: int = 0
    of_all: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that asks for nothing, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """The repositories to reconcile.

    Attributes:
        repositories: names or globs.
        dry_run: write nothing.
        may_be_new: ECR may not find the repositories yet.
        created_at: when the repository was created, if the event says so.
        after_policy_change: the policy was changed by another caller, so a missing grant is drift.
        continuation: where a sweep continues.
        with_registry_policy: whether to report on the registry's policy too.
        scheduled: the schedule asks for it, so repositories that lack the grant show missed creation events.
    """

    repositories: tuple[str, ...]
    dry_run: bool = False
    may_be_new: bool = False
    created_at: datetime | None = None
    after_policy_change: bool = False
    continuation: Continuation | None = None
    with_registry_policy: bool = False
    scheduled: bool = False

    @property
    def of_all(self) -> bool:
        """Whether the sweep is one of all repositories in scope."""
        return "*" in self.repositories or bool(self.continuation and self.continuation.of_all)

    def payload(self, correlation_id: str) -> dict[str, object]:
        """Return the payload of a continuation, which logs this correlation id."""
        # Requests for single repositories never continue, and the first invocation reports on the registry.
        payload: dict[str, object] = {"repositories": list(self.repositories), "dry_run": self.dry_run}
        if self.scheduled:
            payload["scheduled"] = True
        if self.continuation:
            payload["continuation"] = asdict(self.continuation) | {"correlation_id": correlation_id}
        return payload


def shown(value: object) -> str:
    """Return a value of an event for an error message: short, and no object, which could hold an identity."""
    text = "unknown" if isinstance(value, dict | list) else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def from_payload(payload: object) -> Request:
    """Parse a payload, written by a person or by the function itself.

    Raises:
        InvalidEvent: it is wrong; says what is wrong, and shows the correct form.
    """
    if not isinstance(payload, dict):
        raise InvalidEvent(f"the payload is not a JSON object; {_EXPECTED_FORM}")
    if unknown := payload.keys() - {"repositories", "dry_run", "scheduled", "continuation"}:
        names = shown(", ".join(sorted(map(str, unknown))))
        raise InvalidEvent(f"the payload has unknown fields: {names}; {_EXPECTED_FORM}")
    patterns = payload.get("repositories")
    continuation = _continuation(payload.get("continuation"))
    if not isinstance(patterns, list) or not (patterns or continuation):
        raise InvalidEvent(f'"repositories" is not a list of at least one name or glob; {_EXPECTED_FORM}')
    parsed = _patterns(patterns)
    if not continuation and (length := sum(map(len, parsed))) > _MAX_PATTERNS:
        raise InvalidEvent(
            f'"repositories" has {length:,} characters and {_MAX_PATTERNS:,} are allowed, because a sweep '
            "passes them on when it continues: use globs that match more, or several payloads"
        )
    for field in ("dry_run", "scheduled"):
        if not isinstance(payload.get(field, False), bool):
            raise InvalidEvent(f'"{field}" is neither true nor false; {_EXPECTED_FORM}')
    return Request(
        parsed,
        dry_run=payload.get("dry_run", False),
        scheduled=payload.get("scheduled", False),
        continuation=continuation,
        with_registry_policy=continuation is None,
    )


def _patterns(values: list[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_pattern, values)))


def _pattern(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f'"repositories" holds something that is not a string; {_EXPECTED_FORM}')
    try:
        validate_pattern(value)
    except InvalidPattern as error:
        raise InvalidEvent(f'"repositories": {error}') from None
    return value


def _continuation(value: object) -> Continuation | None:
    match value:
        case None:
            return None
        case {
            "token": str() | None as token,
            "unmatched": [*unmatched],
            "failed": [*failed],
            "failed_again": [*failed_again],
            "failed_more": int() as failed_more,
            "relistings": int() as relistings,
            "pages": int() as pages,
            "of_all": bool() as of_all,
        } if min(failed_more, relistings, pages) >= 0:
            names = (_patterns(unmatched), _patterns(failed), _patterns(failed_again))
            return Continuation(token, *names, failed_more, relistings, pages, of_all)
    raise InvalidEvent(f'only the function itself writes "continuation"; {_EXPECTED_FORM}')

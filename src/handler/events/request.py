"""The request: which repositories to reconcile, and the payload that asks for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from handler.policy.scope import InvalidPattern, validate_pattern

type Json = Mapping[str, object]

# So many names and a page of names fit into the payload of an asynchronous invocation, 1 MB.
MAX_FAILED_NAMES = 1000

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
        failed: the repositories that failed so far; the last invocation reconciles them once more.
        failed_more: how many failed beyond the `MAX_FAILED_NAMES` that are named.
        relistings: how often the listing started again, because ECR refused a token of an earlier invocation.
    """

    token: str | None = None
    unmatched: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    failed_more: int = 0
    relistings: int = 0


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
    """

    repositories: tuple[str, ...]
    dry_run: bool = False
    may_be_new: bool = False
    created_at: datetime | None = None
    after_policy_change: bool = False
    continuation: Continuation | None = None
    with_registry_policy: bool = False

    def payload(self, correlation_id: str) -> dict[str, object]:
        """Return the payload of a continuation, which logs this correlation id."""
        # Requests for single repositories never continue, and the first invocation reports on the registry.
        payload: dict[str, object] = {"repositories": list(self.repositories), "dry_run": self.dry_run}
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
    if unknown := payload.keys() - {"repositories", "dry_run", "continuation"}:
        names = shown(", ".join(sorted(map(str, unknown))))
        raise InvalidEvent(f"the payload has unknown fields: {names}; {_EXPECTED_FORM}")
    patterns = payload.get("repositories")
    continuation = _continuation(payload.get("continuation"))
    if not isinstance(patterns, list) or not patterns:
        raise InvalidEvent(f'"repositories" is not a list of at least one name or glob; {_EXPECTED_FORM}')
    dry_run = payload.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidEvent(f'"dry_run" is neither true nor false; {_EXPECTED_FORM}')
    return Request(
        _patterns(patterns),
        dry_run=dry_run,
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
            "failed_more": int() as failed_more,
            "relistings": int() as relistings,
        } if failed_more >= 0 and relistings >= 0:
            return Continuation(token, _patterns(unmatched), _patterns(failed), failed_more, relistings)
    raise InvalidEvent(f'only the function itself writes "continuation"; {_EXPECTED_FORM}')

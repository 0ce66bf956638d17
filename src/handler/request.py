"""A request: which repositories to check, and the payload by which people ask for it. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from handler.scope import InvalidPattern, validate_pattern

type Json = Mapping[str, object]

_FORM = (
    'the payload should look like {"repositories": ["team/app", "ml/*"], "dry_run": true}: '
    '"repositories" lists names or globs ("*" for all in scope), "dry_run" may be left out'
)


class InvalidEvent(ValueError):
    """An event or payload that cannot be acted on; the message says why and what is right."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a sweep goes on, and what is left to say at its end.

    Attributes:
        token: the page to list next, as ECR gave it; None for the first.
        unmatched: the globs that matched no repository so far.
        failed: how many repositories failed so far.
    """

    token: str | None = None
    unmatched: tuple[str, ...] = ()
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """The repositories to check, by name or glob; or none, and why the event was ignored.

    Attributes:
        repositories: their names, or globs.
        dry_run: nothing is to be written.
        may_be_new: ECR may not know them everywhere yet.
        created_at: when the repository was made, if that is what happened.
        healing: somebody changed the policy, so that a grant which is missing was undone.
        resume: where a sweep goes on.
        ignored: why the event asks for nothing, if it does.
    """

    repositories: tuple[str, ...] = ()
    dry_run: bool = False
    may_be_new: bool = False
    created_at: datetime | None = None
    healing: bool = False
    resume: Resume | None = None
    ignored: str = ""

    def payload(self) -> dict[str, object]:
        """Write the request as the payload that asks for it."""
        payload: dict[str, object] = {"repositories": list(self.repositories), "dry_run": self.dry_run}
        if self.resume:
            payload["resume"] = asdict(self.resume)
        return payload


def from_payload(payload: object) -> Request:
    """Read a payload, written by hand or handed over by the function itself.

    Raises:
        InvalidEvent: it is wrong; says what is, and shows the right form.
    """
    if not isinstance(payload, dict):
        raise InvalidEvent(f"the payload is not a JSON object; {_FORM}")
    if unknown := payload.keys() - {"repositories", "dry_run", "resume"}:
        raise InvalidEvent(f"the payload has unknown fields: {', '.join(sorted(map(str, unknown)))}; {_FORM}")
    patterns = payload.get("repositories")
    if not isinstance(patterns, list) or not patterns:
        raise InvalidEvent(f'"repositories" is not a list of at least one name or glob; {_FORM}')
    dry_run = payload.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidEvent(f'"dry_run" is neither true nor false; {_FORM}')
    names = tuple(dict.fromkeys(map(_pattern, patterns)))
    return Request(names, dry_run=dry_run, resume=_resume(payload.get("resume")))


def _pattern(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f'"repositories" holds something that is not a text; {_FORM}')
    try:
        validate_pattern(value)
    except InvalidPattern as error:
        raise InvalidEvent(f'"repositories": {error}') from None
    return value


def _resume(value: object) -> Resume | None:
    if value is None:
        return None
    match value:
        case {"token": str() | None as token, "unmatched": [*globs], "failed": int() as failed}:
            return Resume(token, tuple(map(_pattern, globs)), failed)
    raise InvalidEvent(f'"resume" is for the function alone, when it hands over a sweep; {_FORM}')

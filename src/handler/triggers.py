"""Any event -> the repositories that it asks to check. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from handler.scope import InvalidPattern, is_repository_name, validate_pattern

_FORM = (
    'the payload should look like {"repositories": ["team/app", "ml/*"], "dry_run": true}: '
    '"repositories" lists names or globs ("*" for all in scope), "dry_run" may be left out'
)
_CLOUDTRAIL = ("AWS API Call via CloudTrail", "AWS Service Event via CloudTrail")
_REPOSITORY_ARN = re.compile(r"arn:[^:]+:ecr:(?P<region>[^:]*):(?P<account>[^:]*):repository/(?P<name>.+)")


class InvalidEvent(ValueError):
    """An event or payload that cannot be acted on; the message says why and what is right."""


@dataclass(frozen=True, slots=True)
class Request:
    """The repositories to check, by name or glob; or none, and why the event was ignored.

    `created` says that they are so new that ECR may not know them everywhere.
    """

    repositories: tuple[str, ...] = ()
    dry_run: bool = False
    created: bool = False
    ignored: str = ""


def parse(event: object, *, account: str, region: str) -> Request:
    """Read an EventBridge event, or a payload written by hand, for the registry of an account and region.

    An event only names repositories: neither it nor a payload can name a principal.

    Raises:
        InvalidEvent: it is neither, it is wrong, or it comes from another account or region.
    """
    if not isinstance(event, dict):
        raise InvalidEvent(f"the payload is not a JSON object; {_FORM}")
    if "detail-type" in event:
        return _from_eventbridge(event, account=account, region=region)
    return _from_payload(event)


def _from_payload(payload: Mapping[str, object]) -> Request:
    if unknown := payload.keys() - {"repositories", "dry_run"}:
        raise InvalidEvent(f"the payload has unknown fields: {', '.join(sorted(map(str, unknown)))}; {_FORM}")
    patterns = payload.get("repositories")
    if not isinstance(patterns, list) or not patterns:
        raise InvalidEvent(f'"repositories" is not a list of at least one name or glob; {_FORM}')
    dry_run = payload.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise InvalidEvent(f'"dry_run" is neither true nor false; {_FORM}')
    return Request(tuple(dict.fromkeys(map(_pattern, patterns))), dry_run=dry_run)


def _pattern(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f'"repositories" holds something that is not a text; {_FORM}')
    try:
        validate_pattern(value)
    except InvalidPattern as error:
        raise InvalidEvent(f'"repositories": {error}') from None
    return value


def _from_eventbridge(event: Mapping[str, object], *, account: str, region: str) -> Request:
    detail = event.get("detail")
    if not isinstance(detail, dict):
        raise InvalidEvent('the EventBridge event has no "detail" object')
    if not _is_repository_creation(event, detail):
        return Request(ignored="not an event that this function acts on")
    came_from = (event.get("account"), event.get("region"))
    if came_from != (account, region):
        raise InvalidEvent(
            f"the event comes from account {came_from[0]}, region {came_from[1]}, and this function keeps "
            f"the registry of account {account}, region {region}: deploy the stack there as well"
        )
    if "errorCode" in detail:
        return Request(ignored="the call failed and created nothing")
    return Request((_repository_name(detail, account=account, region=region),), created=True)


def _is_repository_creation(event: Mapping[str, object], detail: Mapping[str, object]) -> bool:
    # CodeCommit and ECR Public also have a CreateRepository; its event differs in these sources only.
    return (
        event["detail-type"] in _CLOUDTRAIL
        and event.get("source") == "aws.ecr"
        and detail.get("eventSource") == "ecr.amazonaws.com"
        and detail.get("eventName") == "CreateRepository"
    )


def _repository_name(detail: Mapping[str, object], *, account: str, region: str) -> str:
    name = next(_names(detail, account=account, region=region), None)
    if name is None:
        raise InvalidEvent(f"the {detail.get('eventName')} event names no repository")
    if not is_repository_name(name):
        raise InvalidEvent(f"the event names {name!r}, which is no name that an ECR repository can have")
    return name


def _names(detail: Mapping[str, object], *, account: str, region: str) -> Iterator[str]:
    """Find the repository's name where CloudTrail may put it, the surest place first.

    A call by API has it in the response; what ECR does by itself has it in `serviceEventDetails`.
    """
    response = _object(detail.get("responseElements"))
    places = (
        _object(response.get("repository")),
        _object(detail.get("serviceEventDetails")),
        _object(detail.get("requestParameters")),
    )
    for place in places:
        if isinstance(name := place.get("repositoryName"), str):
            yield name
    resources = detail.get("resources")
    for resource in map(_object, resources if isinstance(resources, list) else ()):
        arn = resource.get("ARN", resource.get("arn"))
        match = _REPOSITORY_ARN.fullmatch(arn) if isinstance(arn, str) else None
        if match and (match["account"], match["region"]) == (account, region):
            yield match["name"]


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}

"""The fake ECR with more of ECR's reads, and a fake CloudTrail, IAM and STS, for tests of the command line.

Answers as AWS documents. The access key of a call is the account of the caller, if it has twelve digits.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from devstack import in_process, loopback
from devstack.fake_ecr import ACCOUNT, REGION, EcrError, FakeEcr
from devstack.loopback import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

    type Simulate = Callable[[str, str], Mapping[str, Any]]

IN_PROCESS = "http://fake-aws.invalid"  # an endpoint that `before_send` answers
_CREDENTIAL = re.compile(r"Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/")
_NAMESPACES = {
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
    "iam": "https://iam.amazonaws.com/doc/2010-05-08/",
}


def allow_everything(action: str, resource: str) -> Mapping[str, Any]:  # noqa: ARG001 - a simulation
    """Return IAM's answer for a role that may do everything."""
    return {"EvalDecision": "allowed"}


@dataclass(frozen=True)
class Response:
    """A response as it is sent, for example that of a proxy."""

    status: int
    content_type: str
    body: str


@dataclass
class FakeAws:
    """A fake AWS for read-only commands.

    Attributes:
        ecr: the registry.
        images: the status of each image by repository, and tag or digest.
        elsewhere: the repositories of other regions.
        cache_rules: the pull-through cache rules.
        templates: the repository creation templates.
        scope: the scope of the registry policy.
        trails: the descriptions of the trails.
        stopped: the ARNs of the trails that do not log.
        selectors: the event selectors by the ARN of the trail.
        roles: the roles by ARN, each with its id.
        bounded: the ARNs of the roles with a permissions boundary.
        simulate: IAM's answer for an action on a resource.
        denied: the operations that the callers have no permission for.
        responses: responses to send instead, by operation.
        calls: the account and the operation of each call.
        url: the endpoint, while the fake is serving.
    """

    ecr: FakeEcr = field(default_factory=FakeEcr)
    images: dict[tuple[str, str], str] = field(default_factory=dict)
    elsewhere: dict[str, set[str]] = field(default_factory=dict)
    cache_rules: list[dict[str, Any]] = field(default_factory=list)
    templates: list[dict[str, Any]] = field(default_factory=list)
    scope: str = "V2"
    trails: list[dict[str, Any]] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    selectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    bounded: set[str] = field(default_factory=set)
    simulate: Simulate = allow_everything
    denied: set[str] = field(default_factory=set)
    responses: dict[str, Response] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator[FakeAws]:
        """Serve on a free loopback port until the block ends."""
        with loopback.serving(self._answer) as self.url:
            yield self

    def before_send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        """Answer a request of the SDK to `IN_PROCESS` without a network."""
        return in_process.response(request, self._answer) if request.url.startswith(IN_PROCESS) else None

    def _answer(self, headers: Mapping[str, str], body: bytes) -> Answer | None:
        response = self.respond(headers, body)
        if response is None:
            return None
        return Answer(response.status, response.content_type, response.body.encode())

    def respond(self, headers: Mapping[str, str], body: bytes) -> Response | None:
        """Answer a request; None to break the connection."""
        match = _CREDENTIAL.search(headers.get("Authorization", ""))
        key, region = (match["key"], match["region"]) if match else ("", REGION)
        account = key if re.fullmatch(r"\d{12}", key) else ACCOUNT
        target = headers.get("X-Amz-Target", "")
        form = {} if target else {name: values[0] for name, values in parse_qs(body.decode()).items()}
        operation = target.rpartition(".")[2] or form["Action"]
        self.calls.append((account, operation))
        if response := self.responses.get(operation):
            return response
        if not target:
            return self._query(operation, account, form)
        if operation in self.denied:
            return _json(*_error("AccessDeniedException", f"not authorized to perform: {operation}"))
        try:
            answer = self._json_answer(operation, region, json.loads(body))
        except EcrError as error:
            return _json(*_error(error.code, error.message, error.status))
        if answer is not None:
            return _json(HTTPStatus.OK, answer)
        handled = self.ecr.handle_request(target, body)
        return handled and Response(handled[0], "application/x-amz-json-1.1", handled[1].decode())

    def _json_answer(  # noqa: PLR0911 - one for each call
        self, operation: str, region: str, request: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Return the answer to a call that the fake ECR does not know."""
        match operation:
            case "DescribeRepositories" if names := request.get("repositoryNames"):
                return self._repositories(names, region)
            case "DescribeImages":
                return self._image(request["repositoryName"], request["imageIds"][0])
            case "DescribePullThroughCacheRules":
                return {"pullThroughCacheRules": self.cache_rules}
            case "DescribeRepositoryCreationTemplates":
                return {"repositoryCreationTemplates": self.templates}
            case "GetAccountSetting":
                return {"name": request["name"], "value": self.scope}
            case "DescribeTrails":
                shadows = request.get("includeShadowTrails", True)
                return {"trailList": [each for each in self.trails if shadows or not _is_shadow(each)]}
            case "GetTrailStatus":
                return {"IsLogging": request["Name"] not in self.stopped}
            case "GetEventSelectors":
                selector = {"ReadWriteType": "All", "IncludeManagementEvents": True}
                return self.selectors.get(request["TrailName"], {"EventSelectors": [selector]})
        return None

    def _repositories(self, names: list[str], region: str) -> dict[str, Any]:
        known = self.ecr.policies if region == REGION else self.elsewhere.get(region, set())
        if names[0] not in known:
            raise EcrError("RepositoryNotFoundException", f"The repository '{names[0]}' does not exist")
        return {"repositories": [{"repositoryName": names[0], "registryId": ACCOUNT}]}

    def _image(self, repository: str, wanted: Mapping[str, str]) -> dict[str, Any]:
        reference = wanted.get("imageDigest") or wanted["imageTag"]
        status = self.images.get((repository, reference))
        if status is None:
            raise EcrError("ImageNotFoundException", f"The image with imageId {wanted} does not exist")
        return {"imageDetails": [{"repositoryName": repository, "imageStatus": status}]}

    def _query(self, operation: str, account: str, form: Mapping[str, str]) -> Response:
        if operation == "GetCallerIdentity":
            arn = f"arn:aws:iam::{account}:user/reader"
            return _xml("sts", operation, {"Arn": arn, "UserId": "AIDAX", "Account": account})
        if operation in self.denied:
            message = (
                f"User: arn:aws:iam::{account}:user/reader is not authorized to perform: iam:{operation}"
            )
            return _xml_error("AccessDenied", message, HTTPStatus.FORBIDDEN)
        if operation == "GetRole":
            return self._role(account, form["RoleName"])
        if form["PolicySourceArn"] not in self.roles:
            return _xml_error("NoSuchEntity", "The role cannot be found.", HTTPStatus.NOT_FOUND)
        actions = [value for name, value in form.items() if name.startswith("ActionNames.member.")]
        resource = form.get("ResourceArns.member.1", "*")
        results = [
            {"EvalActionName": action, "EvalResourceName": resource, **self.simulate(action, resource)}
            for action in actions
        ]
        return _xml("iam", operation, {"IsTruncated": "false", "EvaluationResults": results})

    def _role(self, account: str, name: str) -> Response:
        prefix = f"arn:aws:iam::{account}:role/"
        found = [arn for arn in self.roles if arn.startswith(prefix) and arn.rpartition("/")[2] == name]
        if not found:
            return _xml_error(
                "NoSuchEntity", f"The role with name {name} cannot be found.", HTTPStatus.NOT_FOUND
            )
        (arn,) = found
        role: dict[str, Any] = {
            "Path": "/",
            "RoleName": name,
            "RoleId": self.roles[arn],
            "Arn": arn,
            "CreateDate": "2026-01-15T10:00:00Z",
        }
        if arn in self.bounded:
            role["PermissionsBoundary"] = {
                "PermissionsBoundaryArn": f"arn:aws:iam::{account}:policy/boundary"
            }
        return _xml("iam", "GetRole", {"Role": role})


def _is_shadow(trail: Mapping[str, Any]) -> bool:
    """Return whether CloudTrail shows a trail that another region or the organization's account owns."""
    return bool(trail.get("IsOrganizationTrail")) or trail.get("HomeRegion", REGION) != REGION


def _error(code: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> tuple[int, dict[str, Any]]:
    return status, {"__type": code, "message": message}


def _json(status: int, answer: Mapping[str, Any]) -> Response:
    return Response(status, "application/x-amz-json-1.1", json.dumps(answer))


def _xml(service: str, operation: str, result: Mapping[str, Any]) -> Response:
    content = f"<{operation}Result>{_elements(result)}</{operation}Result>"
    body = f'<{operation}Response xmlns="{_NAMESPACES[service]}">{content}</{operation}Response>'
    return Response(HTTPStatus.OK, "text/xml", body)


def _xml_error(code: str, message: str, status: int) -> Response:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Response(status, "text/xml", f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>")


def _elements(value: Any, name: str = "") -> str:  # noqa: ANN401 - JSON
    if isinstance(value, dict) and name == "EvalDecisionDetails":
        entries = (
            f"<entry><key>{escape(key)}</key><value>{item}</value></entry>" for key, item in value.items()
        )
        return "".join(entries)
    if isinstance(value, dict):
        return "".join(f"<{key}>{_elements(item, key)}</{key}>" for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"<member>{_elements(item)}</member>" for item in value)
    return escape(str(value).lower() if isinstance(value, bool) else str(value))

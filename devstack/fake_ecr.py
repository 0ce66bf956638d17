"""A fake ECR on loopback with fault injection, for tests and benchmarks.

The fake speaks ECR's wire protocol, so every test runs the real SDK client. It models these rules of ECR:
- A principal must exist when a policy is written. ECR stores the principal's unique id.
- ECR returns a policy in another order and form than it was written.
- Calls that break the API's model, and policies in a wrong form, are rejected.
- Listings are paginated. A token is valid only if ECR returned it.
- The caller has no permission in other accounts' registries.
"""

from __future__ import annotations

import json
import random
import re
import string
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from itertools import count
from time import monotonic, sleep, time  # bound here, so a test that patches `time` doesn't affect the fake
from typing import TYPE_CHECKING, Any
from uuid import UUID

from devstack import api_model, loopback, policy_grammar
from devstack.loopback import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from mypy_boto3_ecr import ECRClient

ACCOUNT = "111122223333"
REGION = "us-east-1"
MAX_POLICY_LENGTH = 10_240
READ, WRITE, DELETE, LIST, READ_REGISTRY = (
    "GetRepositoryPolicy",
    "SetRepositoryPolicy",
    "DeleteRepositoryPolicy",
    "DescribeRepositories",
    "GetRegistryPolicy",
)

_ROLE_OR_USER = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(?:role|user)/.+")
_UNIQUE_ID = re.compile(r"A(?:RO|ID)A[A-Z0-9]{12,}")
_PRINCIPAL = re.compile(
    rf"\*|{_UNIQUE_ID.pattern}|arn:aws[a-z-]*:(?:iam::\d{{12}}:root|sts::\d{{12}}:(?:assumed-role|federated-user)/.+)"
)
_ACCOUNT_ID = re.compile(r"\d{12}")
_PRINCIPAL_NOT_FOUND = "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Principal not found'"


class Fault(Enum):
    """A fault to inject into a call."""

    THROTTLED = auto()
    TOO_MANY_REQUESTS = auto()
    SERVER_ERROR = auto()
    UNAVAILABLE = auto()
    RESET = auto()  # the connection breaks, and ECR doesn't apply the call
    TIMEOUT = auto()  # no response, and ECR doesn't apply the call
    SERVER_ERROR_BUT_APPLIED = auto()
    RESET_BUT_APPLIED = auto()
    TIMEOUT_BUT_APPLIED = auto()


APPLIED = {Fault.SERVER_ERROR_BUT_APPLIED, Fault.RESET_BUT_APPLIED, Fault.TIMEOUT_BUT_APPLIED}
_RESETS = {Fault.RESET, Fault.RESET_BUT_APPLIED}
_TIMEOUTS = {Fault.TIMEOUT, Fault.TIMEOUT_BUT_APPLIED}
_ERROR_RESPONSES = {
    Fault.THROTTLED: (400, "ThrottlingException", "Rate exceeded"),
    Fault.TOO_MANY_REQUESTS: (429, "TooManyRequests", "slow down"),
    Fault.SERVER_ERROR: (500, "ServerException", "out of order"),
    Fault.SERVER_ERROR_BUT_APPLIED: (500, "ServerException", "out of order"),
    Fault.UNAVAILABLE: (503, "ServiceUnavailable", "try again later"),
}


class EcrError(Exception):
    """An error response of ECR."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        """Set the error code, the message and the HTTP status."""
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


class TokenBucket:
    """A rate limit: `rate` calls a second, with bursts of up to `burst` calls."""

    def __init__(self, rate: float, burst: float) -> None:
        """Start with a full bucket."""
        self.rate, self.burst = rate, burst
        self._tokens, self._filled_at = burst, monotonic()

    def take(self) -> bool:
        """Take a token. Return False if the bucket is empty."""
        now = monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass
class FakeEcr:
    """A fake registry of one account and region.

    Attributes:
        latency: the duration of each call in seconds.
        rejects_deleted_principals: whether ECR rejects a policy that contains the unique id of a
            deleted principal. AWS doesn't document which.
        closed_accounts: the ids of closed accounts.
        principal_not_found_message: the error message for a principal that doesn't exist.
        denied_operations: the operations that the caller has no permission for.
        buckets: the rate limit of each operation; operations may share one.
        read_lag: the maximum number of seconds by which a read may lag behind a write.
        registry_policy: the registry's own policy, or None.
        stale_reads: how many reads after a write still return the policy before the write.
        valid_tokens: how many page tokens stay valid; None for all.
        max_page_size: the largest page of a listing, whatever the caller asks for.
        policies: the stored policy of each repository, or None for a repository without a policy.
        created_at: when each repository was created, in seconds since 1970.
        roles: the existing roles and users with their unique ids.
        calls: the number of calls by operation.
        throttled: the number of throttled calls.
        call_log: each call's operation, repository and outcome.
        rng: the source of random order and ids, with a fixed seed.
        url: the endpoint, while the fake is serving.
    """

    latency: float = 0.0
    rejects_deleted_principals: bool = True
    closed_accounts: set[str] = field(default_factory=set)
    principal_not_found_message: str = _PRINCIPAL_NOT_FOUND
    denied_operations: set[str] = field(default_factory=set)
    buckets: dict[str, TokenBucket] = field(default_factory=dict)
    read_lag: float = 0.0
    registry_policy: Mapping[str, Any] | None = None
    stale_reads: int = 0
    valid_tokens: int | None = None
    max_page_size: int = 1000
    policies: dict[str, Any] = field(default_factory=dict)
    created_at: dict[str, float] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    throttled: int = 0
    call_log: list[tuple[str, str | None, str]] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - test data
    url: str = ""
    _faults: dict[tuple[str, str | None], list[Fault | EcrError]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _hooks: dict[tuple[str, str], list[Callable[[], object]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _bodies: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    _not_found_calls: Counter[str] = field(default_factory=Counter)
    _still_shown: dict[str, str] = field(default_factory=dict)
    _replaced: dict[str, tuple[float, Any]] = field(default_factory=dict)
    _request_numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _tokens: set[str] = field(default_factory=set)
    _stale: Counter[str] = field(default_factory=Counter)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _closed: threading.Event = field(default_factory=threading.Event)

    # State.

    def create_repository(
        self,
        *names: str,
        policy: Mapping[str, object] | None = None,
        not_found_calls: int = 0,
        created_at: float | None = None,
    ) -> None:
        """Create repositories. The first `not_found_calls` calls on each answer RepositoryNotFound."""
        with self._lock:
            for name in names:
                self.policies[name] = None
                self.created_at[name] = time() if created_at is None else created_at
                self._not_found_calls[name] = not_found_calls
                if policy is not None:
                    self.set_policy(name, policy)

    def delete_repository(self, name: str) -> None:
        """Delete a repository."""
        with self._lock:
            del self.policies[name]

    def create_role(self, *arns: str) -> None:
        """Create roles or users. A recreated one gets another unique id."""
        with self._lock:
            for arn in arns:
                kind = "AIDA" if ":user/" in arn else "AROA"
                self.roles[arn] = kind + "".join(
                    self.rng.choices(string.ascii_uppercase + string.digits, k=17)
                )

    def delete_role(self, arn: str, *, still_shown: bool = False) -> str:
        """Delete a role or user. Return the unique id that policies show from now on, or soon."""
        with self._lock:
            unique_id = self.roles.pop(arn)
            if still_shown:
                self._still_shown[unique_id] = arn
            return unique_id

    def set_policy(self, name: str, policy: Mapping[str, object]) -> None:
        """Set a repository's policy, as another writer does."""
        with self._lock:
            self._store(name, json.dumps(policy))

    def delete_policy(self, name: str) -> None:
        """Delete a repository's policy, as another writer does."""
        with self._lock:
            self.policies[name] = None

    def get_policy(self, name: str) -> dict[str, Any] | None:
        """Return a repository's policy in normalized form."""
        with self._lock:
            stored = self.policies[name]
            return None if stored is None else normalized(self.with_principal_arns(stored))

    def with_principal_arns(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the unique ids of existing principals with their ARNs. Other ids stay."""
        arns = self._still_shown | {unique_id: arn for arn, unique_id in self.roles.items()}
        return _map_principals(stored, lambda principal: arns.get(principal, principal))

    # Faults and hooks.

    def inject_faults(self, operation: str, *faults: Fault | EcrError, repository: str | None = None) -> None:
        """Inject one fault or error into each of the next calls, optionally on one repository."""
        with self._lock:
            self._faults[operation, repository] += faults

    def inject_bodies(self, operation: str, *bodies: bytes) -> None:
        """Answer each of the next calls of an operation with status 200 and one body, as a proxy may."""
        with self._lock:
            self._bodies[operation] += bodies

    def run_before(self, operation: str, *actions: Callable[[], object]) -> None:
        """Run one action right before each of the next calls of an operation is applied."""
        self._hooks["before", operation] += actions

    def run_after(self, operation: str, *actions: Callable[[], object]) -> None:
        """Run one action right after each of the next calls of an operation, before the response."""
        self._hooks["after", operation] += actions

    def clear_faults(self) -> None:
        """Remove all faults, hooks and rate limits."""
        with self._lock:
            self._faults.clear()
            self._hooks.clear()
            self._bodies.clear()
            self._not_found_calls.clear()
            self.buckets.clear()

    # Client and server.

    def client(self, **config: Any) -> ECRClient:  # noqa: ANN401 - any option of botocore's Config
        """Return an SDK client of this registry, over the network while it is serving, else in process.

        By default, the client never retries. The options apply over the network.
        """
        if self.url:
            return _new_client(self.url, **config)
        # Imported here, because the benchmark's process must stay small and needs no client.
        from devstack import in_process  # noqa: PLC0415

        return in_process.answered(_client_in_process(), self._answer)

    def before_send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """Answer a request of the SDK without a network."""
        from devstack import in_process  # noqa: PLC0415

        return in_process.response(request, self._answer)

    @contextmanager
    def serving(self) -> Iterator[FakeEcr]:
        """Serve on a free loopback port until the block ends."""
        with loopback.serving(self._answer) as self.url:
            try:
                yield self
            finally:
                self._closed.set()

    def _answer(self, headers: Mapping[str, str], body: bytes) -> Answer | None:
        response = self.handle_request(headers.get("X-Amz-Target", ""), body)
        request_id = str(UUID(int=next(self._request_numbers), version=4))
        return response and Answer(response[0], "application/x-amz-json-1.1", response[1], request_id)

    def handle_request(self, target: str, body: bytes) -> tuple[int, bytes] | None:
        """Handle an HTTP request. Return the status and the body, or None to break the connection.

        Args:
            target: the header X-Amz-Target.
            body: the call's parameters in JSON.
        """
        operation = target.rpartition(".")[2]
        with self._lock:
            if bodies := self._bodies[operation]:
                self.calls[operation] += 1
                return 200, bodies.pop(0)
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self.calls[operation] += 1
            return 400, b'{"__type": "SerializationException"}'
        response = self.handle_call(operation, request)
        return response and (response[0], json.dumps(response[1]).encode())

    def handle_call(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Handle a call. Return the status and the response, or None to break the connection."""
        if self.latency:
            sleep(self.latency)
        name = request.get("repositoryName")
        name = name if isinstance(name, str) else None
        with self._lock:
            self.calls[operation] += 1
            fault = self._next_fault(operation, name)
            self._run_hook("before", operation)
            if not isinstance(fault, Fault) or fault in APPLIED:
                try:
                    if fault is not None and not isinstance(fault, Fault):
                        raise fault
                    self._check(operation, request)
                    response = 200, self._execute(operation, request)
                    outcome = "served"
                except EcrError as error:
                    response = error.status, {"__type": error.code, "message": error.message}
                    outcome = error.code
                self._run_hook("after", operation)
            self.call_log.append((operation, name, fault.name if isinstance(fault, Fault) else outcome))
        if fault in _TIMEOUTS and self.url:
            self._closed.wait(60)
        if fault in _TIMEOUTS | _RESETS:
            return None
        if isinstance(fault, Fault):
            status, code, message = _ERROR_RESPONSES[fault]
            return status, {"__type": code, "message": message}
        return response

    def _next_fault(self, operation: str, name: str | None) -> Fault | EcrError | None:
        bucket = self.buckets.get(operation)
        if bucket and not bucket.take():
            self.throttled += 1
            return Fault.THROTTLED
        for key in ((operation, name), (operation, None)):
            if self._faults[key]:
                return self._faults[key].pop(0)
        return None

    def _run_hook(self, moment: str, operation: str) -> None:
        if hooks := self._hooks[moment, operation]:
            hooks.pop(0)()

    def _check(self, operation: str, request: dict[str, Any]) -> None:
        """Check what ECR checks before it looks at the repository."""
        if violation := api_model.violation(operation, request):
            raise EcrError(*violation)
        if operation in self.denied_operations or request.get("registryId", ACCOUNT) != ACCOUNT:
            raise EcrError("AccessDeniedException", f"not authorized to perform: ecr:{operation}")

    def _execute(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == LIST:
            return self._describe_repositories(request)
        if operation == READ_REGISTRY:
            return self._get_registry_policy()
        if operation not in {READ, WRITE, DELETE}:
            raise EcrError("UnknownOperationException", f"the fake ECR has no {operation}")
        name = request["repositoryName"]
        self._require(name)
        if operation == WRITE:
            before = self.policies[name]
            self._store(name, request["policyText"])
            self._replaced[name] = monotonic(), before
            self._stale[name] = self.stale_reads
        stored = self._readable(name) if operation == READ else self.policies[name]
        if stored is None:
            raise EcrError(
                "RepositoryPolicyNotFoundException",
                f"Repository policy does not exist for the repository with name '{name}'",
            )
        if operation == DELETE:
            self.policies[name] = None
        returned = self._shuffled(self.with_principal_arns(stored))
        return {
            "registryId": ACCOUNT,
            "repositoryName": name,
            "policyText": json.dumps(returned, indent=2, separators=(",", " : ")),
        }

    def _require(self, name: str) -> None:
        self._not_found_calls[name] -= 1
        if name not in self.policies or self._not_found_calls[name] >= 0:
            raise EcrError(
                "RepositoryNotFoundException",
                f"The repository with name '{name}' does not exist in the registry with id '{ACCOUNT}'",
            )

    def _get_registry_policy(self) -> dict[str, Any]:
        if self.registry_policy is None:
            raise EcrError("RegistryPolicyNotFoundException", "Registry policy does not exist")
        return {"registryId": ACCOUNT, "policyText": json.dumps(self.registry_policy)}

    def _describe_repositories(self, request: Mapping[str, Any]) -> dict[str, Any]:
        repository_names, token = request.get("repositoryNames"), request.get("nextToken")
        size = request.get("maxResults")
        if repository_names is not None and not (token is None and size is None):
            raise _invalid("repositoryNames", "can't be used with maxResults or nextToken")
        for name in repository_names or ():
            self._require(name)
        # The order isn't alphabetical. The token is a name, so deletions don't shift the next page.
        names = sorted(repository_names or self.policies, key=lambda name: name[::-1])
        if token is not None:
            if self.valid_tokens == 0 or token not in self._tokens:
                raise _invalid("nextToken", "must be a token that ECR returned")
            if self.valid_tokens is not None:
                self.valid_tokens -= 1
            names = [name for name in names if name[::-1] > token[::-1]]
        size = min(100 if size is None else size, self.max_page_size)
        page = names if repository_names else names[:size]
        response: dict[str, Any] = {"repositories": [self._repository(name) for name in page]}
        if len(names) > len(page):
            response["nextToken"] = page[-1]
            self._tokens.add(page[-1])
        return response

    def _repository(self, name: str) -> dict[str, Any]:
        return {
            "repositoryArn": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}",
            "registryId": ACCOUNT,
            "repositoryName": name,
            "repositoryUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{name}",
            "createdAt": self.created_at.get(name, 0),
            "imageTagMutability": "MUTABLE",
            "imageScanningConfiguration": {"scanOnPush": False},
            "encryptionConfiguration": {"encryptionType": "AES256"},
        }

    def _readable(self, name: str) -> Any:  # noqa: ANN401 - JSON
        written_at, before = self._replaced.get(name, (0.0, None))
        if self._stale[name] > 0:
            self._stale[name] -= 1
            return before
        lag = self.rng.uniform(self.read_lag / 20, self.read_lag)
        return before if self.read_lag and monotonic() - written_at < lag else self.policies[name]

    def _store(self, name: str, text: str) -> None:
        if len(text) > MAX_POLICY_LENGTH:
            raise _invalid("PolicyText", f"must have a length less than or equal to {MAX_POLICY_LENGTH}")
        try:
            policy = json.loads(text)
        except (ValueError, RecursionError):
            policy = None
        if not policy_grammar.is_valid(policy):
            raise _invalid("PolicyText", "Invalid repository policy provided")
        self.policies[name] = _map_principals(policy, self._stored_principal)

    def _stored_principal(self, principal: str) -> str:
        not_found = EcrError("InvalidParameterException", self.principal_not_found_message)
        if not self.closed_accounts.isdisjoint(re.findall(r"\d{12}", principal)):
            raise not_found
        if _ACCOUNT_ID.fullmatch(principal):
            return f"arn:aws:iam::{principal}:root"
        if _ROLE_OR_USER.fullmatch(principal):
            if principal not in self.roles:
                raise not_found
            return self.roles[principal]
        if not _PRINCIPAL.fullmatch(principal):
            raise not_found
        deleted = _UNIQUE_ID.fullmatch(principal) and principal not in self.roles.values()
        if deleted and self.rejects_deleted_principals:
            raise not_found
        return principal

    def _shuffled(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
        """Shuffle keys and sets. A set with one element becomes a string, as ECR does."""
        if isinstance(value, dict):
            items = list(value.items())
            self.rng.shuffle(items)
            return {name: self._shuffled(item, name) for name, item in items}
        if key in {"AWS", "Action", "NotAction", "Service"}:
            members = list(dict.fromkeys(_as_list(value)))
            self.rng.shuffle(members)
            return members[0] if len(members) == 1 else members
        if isinstance(value, list):
            return [self._shuffled(item) for item in value]
        return value


def _new_client(url: str, **config: Any) -> ECRClient:  # noqa: ANN401 - any option of botocore's Config
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    options: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 32}
    return boto3.client(
        "ecr",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106 - a dummy, the fake checks no signature
        config=Config(**options | config),
    )


@cache
def _client_in_process() -> ECRClient:
    from botocore import UNSIGNED  # noqa: PLC0415

    # The SDK needs half of the time of a call in process for headers that the fake ignores.
    return _new_client("http://fake-ecr.invalid", signature_version=UNSIGNED, user_agent="tests")


def _invalid(name: str, constraint: str) -> EcrError:
    return EcrError(
        "InvalidParameterException",
        f"Invalid parameter at '{name}' failed to satisfy constraint: '{constraint}'",
    )


def normalized(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Sort and deduplicate the sets of a policy, so that equivalent policies compare equal."""

    def normalize(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            return {key: normalize(item) for key, item in value.items()}
        if isinstance(value, list):
            return sorted(set(value)) if len(set(value)) > 1 else value[0]
        return value

    return dict(policy) | {"Statement": [normalize(one) for one in _as_list(policy["Statement"])]}


def _map_principals(policy: Mapping[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
    def mapped(element: Any) -> Any:  # noqa: ANN401 - JSON
        if not isinstance(element, dict) or "AWS" not in element:
            return element
        return element | {"AWS": [replace(principal) for principal in _as_list(element["AWS"])]}

    statements = [
        {key: mapped(value) if key in {"Principal", "NotPrincipal"} else value for key, value in one.items()}
        for one in _as_list(policy["Statement"])
    ]
    return dict(policy) | {"Statement": statements}


def _as_list(value: Any) -> Sequence[Any]:  # noqa: ANN401 - JSON
    return value if isinstance(value, list) else [value]

"""An ECR on loopback that behaves as the real one does where emulators are polite, with faults to switch on.

It speaks the protocol of the SDK, so that the real client is part of every test. What it knows of
ECR: principals must exist when a policy is written, and are stored by their ids; a policy never
comes back as it was given; a policy has a largest size and takes no `Resource`; listings have pages.
"""

from __future__ import annotations

import json
import random
import re
import socket
import string
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep  # its own, whatever a test does to the clock of the function
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mypy_boto3_ecr import ECRClient

ACCOUNT = "111122223333"
REGION = "us-east-1"
MAX_CHARACTERS = 10_240
READ, WRITE, DELETE, LIST = (
    "GetRepositoryPolicy",
    "SetRepositoryPolicy",
    "DeleteRepositoryPolicy",
    "DescribeRepositories",
)

_ROLE_OR_USER = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(?:role|user)/.+")
_UNIQUE_ID = re.compile(r"A(?:RO|ID)A[A-Z0-9]{12,}")
_ACCOUNT_ID = re.compile(r"\d{12}")
_PRINCIPAL_NOT_FOUND = "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Principal not found'"


class Fault(Enum):
    """What can befall a call."""

    THROTTLED = auto()
    TOO_MANY_REQUESTS = auto()
    SERVER_ERROR = auto()
    UNAVAILABLE = auto()
    RESET = auto()  # the connection breaks before ECR acts
    TIMEOUT = auto()  # no answer, and ECR does not act
    SERVER_ERROR_BUT_TAKEN = auto()
    RESET_BUT_TAKEN = auto()
    TIMEOUT_BUT_TAKEN = auto()


TAKEN = {Fault.SERVER_ERROR_BUT_TAKEN, Fault.RESET_BUT_TAKEN, Fault.TIMEOUT_BUT_TAKEN}
_RESETS = {Fault.RESET, Fault.RESET_BUT_TAKEN}
_TIMEOUTS = {Fault.TIMEOUT, Fault.TIMEOUT_BUT_TAKEN}
_ANSWERS = {
    Fault.THROTTLED: (400, "ThrottlingException", "Rate exceeded"),
    Fault.TOO_MANY_REQUESTS: (429, "TooManyRequests", "slow down"),
    Fault.SERVER_ERROR: (500, "ServerException", "out of order"),
    Fault.SERVER_ERROR_BUT_TAKEN: (500, "ServerException", "out of order"),
    Fault.UNAVAILABLE: (503, "ServiceUnavailable", "come back later"),
}


class Refused(Exception):
    """An error that ECR answers with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


class TokenBucket:
    """Serves `rate` calls a second, and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._filled_at = burst, monotonic()

    def serves(self) -> bool:
        now = monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass
class Ecr:
    """The registry of one account and region.

    Attributes:
        latency: seconds that each call takes.
        refuses_ids: whether a policy that holds the id of a deleted principal is refused. Nobody
            knows of the real ECR.
        closed_accounts: the ids of accounts that exist no more.
        says: how it words that a principal does not exist.
        forbids: the operations for which the caller has no permission.
        buckets: what throttles the calls of an operation.
        policies: the repositories, and the policy of each as it is stored; None for none.
        roles: the roles and users that exist, and their unique ids.
        calls: how many calls came in, by operation.
        throttled: how many of them were throttled.
        log: each call that came in: its operation, its repository, and what became of it.
    """

    latency: float = 0.0
    refuses_ids: bool = True
    closed_accounts: set[str] = field(default_factory=set)
    says: str = _PRINCIPAL_NOT_FOUND
    forbids: set[str] = field(default_factory=set)
    buckets: dict[str, TokenBucket] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    throttled: int = 0
    log: list[tuple[str, str | None, str]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    url: str = ""
    _faults: dict[tuple[str, str | None], list[Fault]] = field(default_factory=lambda: defaultdict(list))
    _hooks: dict[tuple[str, str], list[Callable[[], object]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _unseen: Counter[str] = field(default_factory=Counter)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)

    # The world, as a test sets it up.

    def create(self, *names: str, policy: Mapping[str, object] | None = None, unseen_for: int = 0) -> None:
        """Make repositories, of which the first calls know nothing."""
        with self._lock:
            for name in names:
                self.policies[name] = None
                self._unseen[name] = unseen_for
                if policy is not None:
                    self.write(name, policy)

    def delete(self, name: str) -> None:
        """Delete a repository."""
        with self._lock:
            del self.policies[name]

    def hire(self, *arns: str) -> None:
        """Make roles or users. A new one is not the one of the same name that was deleted."""
        with self._lock:
            for arn in arns:
                kind = "AIDA" if ":user/" in arn else "AROA"
                self.roles[arn] = kind + "".join(
                    self.chance.choices(string.ascii_uppercase + string.digits, k=17)
                )

    def dismiss(self, arn: str) -> str:
        """Delete a role or user; give the id that policies then show."""
        with self._lock:
            return self.roles.pop(arn)

    def write(self, name: str, policy: Mapping[str, object]) -> None:
        """Set a repository's policy as another writer does."""
        with self._lock:
            self._set(name, json.dumps(policy))

    def unset(self, name: str) -> None:
        """Delete a repository's policy as another writer does."""
        with self._lock:
            self.policies[name] = None

    def policy(self, name: str) -> dict[str, Any] | None:
        """Give a repository's policy, in one form and order."""
        with self._lock:
            stored = self.policies[name]
            return None if stored is None else in_one_form(self.shown(stored))

    # What goes wrong, and when.

    def fails(self, operation: str, *faults: Fault, repository: str | None = None) -> None:
        """Let the next calls of an operation, perhaps on one repository, fail so, one fault each."""
        with self._lock:
            self._faults[operation, repository] += faults

    def before(self, operation: str, *actions: Callable[[], object]) -> None:
        """Let the first action happen right before the next such call takes effect, and so on."""
        self._hooks["before", operation] += actions

    def after(self, operation: str, *actions: Callable[[], object]) -> None:
        """Let the first action happen right after the next such call, before it is answered, and so on."""
        self._hooks["after", operation] += actions

    def recover(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._faults.clear()
            self._hooks.clear()
            self._unseen.clear()
            self.buckets.clear()

    # How it is spoken to.

    def client(self, **config: Any) -> ECRClient:  # noqa: ANN401 - whatever the SDK takes
        """Give the SDK's client of it; it tries each call once."""
        options: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 32} | config
        return boto3.client(
            "ecr",
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id="x",
            aws_secret_access_key="x",  # noqa: S106 - nobody checks it
            config=Config(**options),
        )

    @contextmanager
    def serving(self) -> Iterator[Ecr]:
        """Listen on a free port of this machine until the test is over."""
        with _Server(("127.0.0.1", 0), _handler(self)) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self._over.set()
                server.shutdown()
                thread.join()

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Answer a call: the status and the body, or None for a connection that breaks."""
        sleep(self.latency)
        name = request.get("repositoryName")
        with self._lock:
            self.calls[operation] += 1
            fault = self._fault(operation, name)
            self._happen("before", operation)
            if fault is None or fault in TAKEN:
                try:
                    answer = 200, self._perform(operation, request)
                    became = "served"
                except Refused as refused:
                    answer = refused.status, {"__type": refused.code, "message": refused.message}
                    became = refused.code
                self._happen("after", operation)
            else:
                became = fault.name
            self.log.append((operation, name, fault.name if fault else became))
        if fault in _TIMEOUTS:
            self._over.wait(60)
        if fault in _TIMEOUTS | _RESETS:
            return None
        if fault is not None:
            status, code, message = _ANSWERS[fault]
            return status, {"__type": code, "message": message}
        return answer

    def _fault(self, operation: str, name: str | None) -> Fault | None:
        bucket = self.buckets.get(operation)
        if bucket and not bucket.serves():
            self.throttled += 1
            return Fault.THROTTLED
        for key in ((operation, name), (operation, None)):
            if self._faults[key]:
                return self._faults[key].pop(0)
        return None

    def _happen(self, moment: str, operation: str) -> None:
        if hooks := self._hooks[moment, operation]:
            hooks.pop(0)()

    def _perform(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation in self.forbids:
            raise Refused("AccessDeniedException", f"not authorized to perform: ecr:{operation}")
        if operation == LIST:
            return self._list(**request)
        name = request["repositoryName"]
        self._unseen[name] -= 1
        if name not in self.policies or self._unseen[name] >= 0:
            raise Refused(
                "RepositoryNotFoundException",
                f"The repository with name '{name}' does not exist in the registry with id '{ACCOUNT}'",
            )
        answer = {"registryId": ACCOUNT, "repositoryName": name}
        if operation == WRITE:
            self._set(name, request["policyText"])
        stored = self.policies[name]
        if stored is None:
            raise Refused(
                "RepositoryPolicyNotFoundException",
                f"Repository policy does not exist for the repository with name '{name}'",
            )
        if operation == DELETE:
            self.policies[name] = None
        return answer | {
            "policyText": json.dumps(self._given_back(stored), indent=2, separators=(",", " : "))
        }

    def _list(self, maxResults: int = 100, nextToken: str | None = None) -> dict[str, Any]:  # noqa: N803 - ECR's
        # In an order of its own, and from a place rather than a number: deletions move nothing.
        listed = sorted(self.policies, key=lambda name: name[::-1])
        if nextToken is not None:
            listed = [name for name in listed if name[::-1] > nextToken[::-1]]
        page = listed[:maxResults]
        answer: dict[str, Any] = {
            "repositories": [
                {
                    "repositoryName": name,
                    "registryId": ACCOUNT,
                    "repositoryArn": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}",
                }
                for name in page
            ]
        }
        if len(listed) > len(page):
            answer["nextToken"] = page[-1]
        return answer

    def _set(self, name: str, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise Refused("InvalidParameterException", "Invalid parameter at 'PolicyText': too long")
        policy = json.loads(text)
        for statement in _listed(policy["Statement"]):
            if "Resource" in statement or not _listed(
                statement.get("Action", statement.get("NotAction", []))
            ):
                raise Refused("InvalidParameterException", "Invalid parameter at 'PolicyText'")
        self.policies[name] = _with_principals(policy, self._stored_principal)

    def _stored_principal(self, principal: str) -> str:
        if not self.closed_accounts.isdisjoint(re.findall(r"\d{12}", principal)):
            raise Refused("InvalidParameterException", self.says)
        if _ACCOUNT_ID.fullmatch(principal):
            return f"arn:aws:iam::{principal}:root"
        if _ROLE_OR_USER.fullmatch(principal):
            if principal not in self.roles:
                raise Refused("InvalidParameterException", self.says)
            return self.roles[principal]
        if _UNIQUE_ID.fullmatch(principal) and self.refuses_ids and principal not in self.roles.values():
            raise Refused("InvalidParameterException", self.says)
        return principal

    def shown(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Give a stored policy with the names of the principals that exist; the others show as ids."""
        arns = {unique_id: arn for arn, unique_id in self.roles.items()}
        return _with_principals(stored, lambda principal: arns.get(principal, principal))

    def _given_back(self, stored: Mapping[str, Any]) -> Any:  # noqa: ANN401 - it is JSON
        return self._shuffled(self.shown(stored))

    def _shuffled(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 - it is JSON
        """Turn keys and sets around; one item of a set comes back as a string, at times."""
        if isinstance(value, dict):
            items = list(value.items())
            self.chance.shuffle(items)
            return {name: self._shuffled(item, name) for name, item in items}
        if key in {"AWS", "Action", "NotAction", "Service"}:
            members = list(dict.fromkeys(_listed(value)))
            self.chance.shuffle(members)
            return members[0] if len(members) == 1 else members
        if isinstance(value, list):
            return [self._shuffled(item) for item in value]
        return value


def in_one_form(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Write a policy so that two of the same meaning and the same statements are equal."""

    def sets(value: Any) -> Any:  # noqa: ANN401 - it is JSON
        if isinstance(value, dict):
            return {key: sets(item) for key, item in value.items()}
        if isinstance(value, list):
            return sorted(set(value)) if len(set(value)) > 1 else value[0]
        return value

    statements = [sets(statement) for statement in _listed(policy["Statement"])]
    return dict(policy) | {"Statement": statements}


def _with_principals(policy: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    def changed(element: Any) -> Any:  # noqa: ANN401 - it is JSON
        if not isinstance(element, dict) or "AWS" not in element:
            return element
        return element | {"AWS": [change(principal) for principal in _listed(element["AWS"])]}

    statements = [
        {key: changed(value) if key in {"Principal", "NotPrincipal"} else value for key, value in one.items()}
        for one in _listed(policy["Statement"])
    ]
    return dict(policy) | {"Statement": statements}


def _listed(value: Any) -> Sequence[Any]:  # noqa: ANN401 - it is JSON
    return value if isinstance(value, list) else [value]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news here."""


def _handler(ecr: Ecr) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = ecr.answer(operation, request)
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, body = answer
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    return Handler

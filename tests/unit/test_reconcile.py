"""A check when ECR pushes back: what is tried again, and from where."""

import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from handler.pace import Pace
from handler.policy import attach, render
from handler.reconcile import reconcile
from handler.registry import Registry, RegistryError
from handler.request import Request
from handler.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
SETTINGS = Settings.from_environment({"WORKER_ROLE_ARNS": ROLE})
NAMED = {"repositoryName": "team/app"}
OURS = render(attach(None, [ROLE]))
THEIRS = render(
    {
        "Version": "2012-10-17",
        "Statement": {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "ecr:PutImage"},
    }
)


class Ecr:
    """ECR, answering each call in turn as the test says."""

    def __init__(self, client: "ECRClient", stubber: Stubber) -> None:
        self.registry = Registry(client)
        self._stubber = stubber

    def gives(self, text: str, name: str = "team/app") -> None:
        self._stubber.add_response("get_repository_policy", {"policyText": text}, {"repositoryName": name})

    def has_no_policy(self) -> None:
        self.refuses("get_repository_policy", "RepositoryPolicyNotFoundException")

    def takes(self, text: str) -> None:
        self._stubber.add_response("set_repository_policy", {}, NAMED | {"policyText": text})

    def lists(self, *names: str, next_token: str | None = None, **parameters: object) -> None:
        page = {"repositories": [{"repositoryName": name} for name in names]}
        more = {"nextToken": next_token} if next_token else {}
        self._stubber.add_response("describe_repositories", page | more, {"maxResults": 1000} | parameters)

    def refuses(self, operation: str, code: str, message: str = "no", status: int = 400) -> None:
        self._stubber.add_client_error(operation, code, message, http_status_code=status)


@pytest.fixture
def ecr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ecr]:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    retry_free = Config(retries={"total_max_attempts": 1})
    client = boto3.client(
        "ecr",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106 - nothing is called
        config=retry_free,
    )
    with Stubber(client) as stubber:
        yield Ecr(client, stubber)
        stubber.assert_no_pending_responses()


def checked(ecr: Ecr) -> dict[str, Any]:
    """Check the repository and give what the report tells of it."""
    report, rest = reconcile(Request(("team/app",)), SETTINGS, ecr.registry, lambda: 900.0)
    assert rest is None
    (details,) = cast("list[dict[str, Any]]", report.answer()["repositories"])
    return details


ATTACHED = {"repository": "team/app", "outcome": "attached", "added": [ROLE]}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ThrottlingException", 400),
        ("ThrottleException", 400),
        ("SomethingElse", 429),
        ("ServerException", 500),
        ("ServiceUnavailable", 503),
    ],
)
def test_a_write_that_was_not_taken_is_tried_again_from_a_new_read(ecr: Ecr, code: str, status: int) -> None:
    ecr.has_no_policy()
    ecr.refuses("set_repository_policy", code, status=status)
    ecr.gives(THEIRS)
    ecr.takes(render(attach(json.loads(THEIRS), [ROLE])))

    assert checked(ecr) == ATTACHED


def test_a_write_of_which_the_answer_was_lost_is_reported_all_the_same(ecr: Ecr) -> None:
    ecr.has_no_policy()
    ecr.refuses("set_repository_policy", "ServerException", status=500)
    ecr.gives(OURS)

    assert checked(ecr) == ATTACHED


def test_a_read_that_was_throttled_is_tried_again(ecr: Ecr) -> None:
    ecr.refuses("get_repository_policy", "ThrottlingException")
    ecr.gives(OURS)

    assert checked(ecr)["outcome"] == "unchanged"


def test_pauses_grow_and_vary(ecr: Ecr, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[list[float]] = [[], []]
    for run in pauses:
        monkeypatch.setattr(time, "sleep", run.append)
        for _ in range(8):
            ecr.refuses("get_repository_policy", "ThrottlingException", "Rate exceeded")
        ecr.gives(OURS)
        checked(ecr)

    # Up to 6.4 s, or the pace makes a call wait for its slot.
    own = [[pause for pause in run if pause >= 0.1] for run in pauses]
    assert own[0] != own[1]
    for run in own:
        assert [0.5 <= pause / min(0.2 * 2**n, 6.4) <= 1 for n, pause in enumerate(run)] == [True] * 8


def test_trying_again_has_an_end_and_the_failure_says_why(ecr: Ecr) -> None:
    for _ in range(6):
        ecr.refuses("get_repository_policy", "ServerException", "out of order", status=500)

    result = checked(ecr)

    assert result["outcome"] == "failed"
    assert "GetRepositoryPolicy: ServerException: out of order" in result["reason"]


def test_a_throttle_is_no_failure_while_there_is_time(ecr: Ecr) -> None:
    for _ in range(50):
        ecr.refuses("get_repository_policy", "ThrottlingException", "Rate exceeded")
    ecr.gives(OURS)

    assert checked(ecr)["outcome"] == "unchanged"


def test_what_ecr_refuses_for_good_is_not_tried_again(ecr: Ecr) -> None:
    ecr.refuses("get_repository_policy", "AccessDeniedException", "not authorized to perform: ecr:Get")

    result = checked(ecr)

    assert result["outcome"] == "failed"
    assert "not authorized to perform: ecr:Get" in result["reason"]


@pytest.mark.parametrize("message", ["Principal not found", "Invalid repository policy provided"])
def test_a_principal_that_does_not_exist_is_a_failure_that_says_what_to_check(ecr: Ecr, message: str) -> None:
    ecr.has_no_policy()
    ecr.refuses("set_repository_policy", "InvalidParameterException", f"constraint: '{message}'")

    assert "WORKER_ROLE_ARNS" in checked(ecr)["reason"]


def test_a_repository_that_goes_between_read_and_write_is_gone(ecr: Ecr) -> None:
    ecr.has_no_policy()
    ecr.refuses("set_repository_policy", "RepositoryNotFoundException")

    assert checked(ecr) == {"repository": "team/app", "outcome": "gone"}


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"Statement": 1}'])
def test_a_policy_that_cannot_be_understood_is_not_rewritten(ecr: Ecr, text: str) -> None:
    ecr.gives(text)

    assert checked(ecr)["outcome"] == "failed"


def test_a_check_waits_for_its_slot_before_the_read_and_never_between_read_and_write(ecr: Ecr) -> None:
    noted: list[str] = []

    class Noted(Pace):
        def wait(self) -> None:
            noted.append("wait")

        def owe(self) -> None:
            noted.append("owe")

        def served(self) -> None:
            noted.append("served")

        def throttled(self) -> None:
            noted.append("throttled")

    ecr.registry = Registry(ecr.registry._client, Noted())  # noqa: SLF001 - the same client
    ecr.has_no_policy()
    ecr.refuses("set_repository_policy", "ThrottlingException")
    ecr.has_no_policy()
    ecr.takes(OURS)

    assert checked(ecr) == ATTACHED
    assert noted == ["wait", "served", "owe", "throttled", "wait", "served", "owe", "served"]


def test_many_checks_at_once_at_an_ecr_that_throttles_fail_nobody_and_find_its_rate() -> None:
    class ThrottlingEcr:
        """Serves 60 calls a second, and the rest not."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.tokens, self.filled_at = 1.0, time.monotonic()
            self.throttled = 0

        def get_repository_policy(self, **_: str) -> dict[str, str]:
            with self.lock:
                now = time.monotonic()
                self.tokens = min(60.0, self.tokens + (now - self.filled_at) * 60)
                self.filled_at = now
                if self.tokens < 1:
                    self.throttled += 1
                    error = {
                        "Error": {"Code": "ThrottlingException"},
                        "ResponseMetadata": {"HTTPStatusCode": 400},
                    }
                    raise ClientError(error, "GetRepositoryPolicy")  # type: ignore[arg-type]
                self.tokens -= 1
            return {"policyText": OURS}

    throttling = ThrottlingEcr()
    names = tuple(f"app-{number}" for number in range(300))

    report, rest = reconcile(Request(names), SETTINGS, Registry(throttling), lambda: 900.0)  # type: ignore[arg-type]

    assert rest is None
    assert report.answer()["outcomes"] == {"unchanged": 300}
    assert throttling.throttled < 150


def test_repositories_are_listed_page_by_page_at_the_largest_page_size(ecr: Ecr) -> None:
    ecr.lists("one", next_token="2")  # noqa: S106 - a page's token
    ecr.gives(OURS, "one")
    ecr.refuses("describe_repositories", "ThrottlingException")
    ecr.lists("two", nextToken="2")
    ecr.gives(OURS, "two")

    report, rest = reconcile(Request(("*",)), SETTINGS, ecr.registry, lambda: 900.0)

    assert rest is None
    assert report.answer()["outcomes"] == {"unchanged": 2}


def test_repositories_that_cannot_be_listed_are_an_error_that_says_why(ecr: Ecr) -> None:
    ecr.refuses("describe_repositories", "AccessDeniedException", "not authorized")

    with pytest.raises(RegistryError, match="DescribeRepositories: AccessDeniedException: not authorized"):
        reconcile(Request(("*",)), SETTINGS, ecr.registry, lambda: 900.0)

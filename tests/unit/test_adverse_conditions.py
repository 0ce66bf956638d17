"""Sweeps under adverse conditions: the real SDK against a fake ECR, over several invocations."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from handler.reconcile.role_knowledge import RoleKnowledge

from devstack.fake_ecr import ACCOUNT, LIST, READ, REGION, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.events.triggers import FunctionIdentity, parse
from handler.reconcile.sweep import Sweep
from handler.report.report import Report, RepositoriesFailed
from handler.settings import Settings
from tests.environment import REQUIRED
from tests.unit.virtual_time import limiter_without_waits

ROLES = [f"arn:aws:iam::222222222222:role/unionai-{n:02}-flyteworker-node-group" for n in range(50)]
A, B, *_ = ROLES
VENDOR = "arn:aws:iam::444444444444:role/vendor"
IDENTITY = FunctionIdentity(ACCOUNT, REGION, caller_arn="the function")
ADDRESS_LIKE = "602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/coredns"
LAMBDA_LIMIT = 6 * 1024 * 1024  # bytes of an answer
PULL = ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"]

type Policy = dict[str, Any]


def allow(sid: str, action: object, *principals: str) -> Policy:
    return {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": list(principals)}, "Action": action}


def grant(*roles: str) -> Policy:
    return allow("AllowPull", PULL, *roles)


def document(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}


@dataclass
class Function:
    """The function, invoked again for each continuation. `limit` is the timeout in seconds of fake time."""

    ecr: FakeEcr
    roles: list[str] = field(default_factory=lambda: [A])
    settings: dict[str, str] = field(default_factory=dict)
    limit: float = 900.0
    seconds_per_call: float = 0.0
    seconds_per_delay: float = 0.0
    between: Callable[[], object] = lambda: None
    answers: list[dict[str, Any]] = field(default_factory=list)
    payload: dict[str, object] = field(default_factory=dict)
    _delayed: float = 0.0
    _calls: int = 0

    def sleep(self, seconds: float) -> None:
        self._delayed += min(seconds, self.seconds_per_delay)

    def run(self, *repositories: str) -> dict[str, Any]:
        """Run the sweep to its end; return the last answer, or raise as the last invocation does."""
        self.payload = {"repositories": list(repositories or ("*",))}
        while True:
            report, remaining = self.invoke()
            self.answers.append(report.response())
            if not remaining:
                report.raise_for_failures()
                return self.answers[-1]
            self.payload = remaining
            self.between()

    def invoke(self) -> tuple[Report, dict[str, object] | None]:
        """Run one invocation; return its report and the payload of the continuation."""
        settings = Settings.from_environment(
            REQUIRED | {"WORKER_ROLE_ARNS": ",".join(self.roles)} | self.settings
        )
        registry = Registry(self.ecr.client(read_timeout=2), limiter_without_waits())
        started = self.elapsed()
        request = parse(json.loads(json.dumps(self.payload)), IDENTITY)
        sweep = Sweep(request, settings, registry, lambda: self.limit - (self.elapsed() - started))
        report = Report(request, dry_run=sweep.dry_run)
        for result in sweep.run():
            report.add(result)
        report.continued, report.unmatched = sweep.remaining is not None, sweep.unmatched
        return report, sweep.remaining.payload("0e") if sweep.remaining else None

    def elapsed(self) -> float:
        return self.ecr.calls.total() * self.seconds_per_call + self._delayed


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few hundred repositories take several pages and invocations."""
    monkeypatch.setattr("handler.ecr.registry._PAGE_SIZE", 200)
    monkeypatch.setattr("handler.reconcile.sweep.MAX_FAILED_NAMES", 200)


@pytest.fixture
def ecr() -> FakeEcr:
    ecr = FakeEcr()
    ecr.create_role(*ROLES, VENDOR)
    return ecr


@pytest.fixture
def function(ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function(ecr)
    monkeypatch.setattr("handler.ecr.retry.time.sleep", function.sleep)
    return function


def names(count: int, prefix: str = "app") -> list[str]:
    return [f"{prefix}-{number:04}" for number in range(count)]


class TestARepositoryNamedLikeAnAddress:
    def test_is_reconciled_in_a_continuation(self, ecr: FakeEcr, function: Function) -> None:
        function.limit, function.seconds_per_call = 30, 0.25
        ecr.create_repository(*names(240), *(f"{ADDRESS_LIKE}-{n}" for n in range(60)))

        function.run()

        assert len(function.answers) > 1
        assert all(ecr.policies.values())

    def test_is_reconciled_by_its_name(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(ADDRESS_LIKE)

        assert function.run(ADDRESS_LIKE)["outcomes"] == {"attached": 1}

    def test_can_be_excluded_by_a_pattern(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app", ADDRESS_LIKE)
        function.settings["REPOSITORIES"] = "*,!602401143452.dkr.ecr.*"

        assert function.run()["outcomes"] == {"attached": 1}


class TestFailuresBeforeAContinuation:
    @pytest.fixture(autouse=True)
    def several_invocations(self, function: Function) -> None:
        function.limit, function.seconds_per_call = 30, 0.25
        function.between = lambda: setattr(function, "limit", 900)

    def test_are_reconciled_again_at_the_end(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(300))
        denied = EcrError("AccessDeniedException", "not authorized")
        ecr.inject_faults(READ, denied, denied, denied)

        function.run()

        assert len(function.answers) > 1
        assert function.answers[0]["outcomes"]["failed"] == 3
        assert all(ecr.policies.values())

    def test_are_reconciled_again_with_a_role_that_exists_by_then(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = [A, B]
        ecr.delete_role(B)
        ecr.create_repository(*names(240))

        def create_role() -> None:
            function.limit = 900
            if B not in ecr.roles:
                ecr.create_role(B)

        function.between = create_role

        function.run()

        assert function.answers[0]["refused_roles"][0]["role"] == B
        expected = normalized(document(grant(A, B)))
        assert all(ecr.get_policy(name) == expected for name in ecr.policies)

    def test_that_remain_are_named_with_their_reason_and_repeated_by_a_retry(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(300))
        denied = EcrError("AccessDeniedException", "not authorized")
        for name in names(3):
            ecr.inject_faults(READ, *[denied] * 100, repository=name)

        with pytest.raises(RepositoriesFailed, match=r"3 of \d+ .*app-0002: .*AccessDeniedException"):
            function.run()

        ecr.clear_faults()  # and Lambda retries the last event
        report, remaining = function.invoke()
        assert remaining is None
        report.raise_for_failures()
        assert all(ecr.policies.values())

    def test_beyond_the_named_ones_are_counted(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = [A, B]
        ecr.delete_role(B)
        ecr.create_repository(*names(480))
        function.limit = 200

        with pytest.raises(RepositoriesFailed, match=r"\d+ more failed in earlier invocations"):
            function.run()


class TestARepositoryWhoseWriteIsAlwaysThrottled:
    def test_fails_alone_after_all_others(self, ecr: FakeEcr, function: Function) -> None:
        function.limit, function.seconds_per_call, function.seconds_per_delay = 30, 0.15, 6.4
        ecr.create_repository(*names(300), "stuck")
        ecr.inject_faults(WRITE, *[Fault.THROTTLED] * 10_000, repository="stuck")

        with pytest.raises(RepositoriesFailed, match=r"^1 of \d+ repositories failed: stuck: no attempt"):
            function.run()

        assert len(function.answers) < 12
        assert [name for name, policy in ecr.policies.items() if policy is None] == ["stuck"]


class TestAPageTokenThatEcrNoLongerAccepts:
    def test_costs_a_new_listing_and_one_read_for_what_is_done(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.limit, function.seconds_per_call = 60, 0.25
        ecr.create_repository(*names(440))

        def reject_the_next_token_once() -> None:
            if len(function.answers) == 1:
                ecr.valid_tokens = 0
                ecr.run_after(LIST, lambda: setattr(ecr, "valid_tokens", None))

        function.between = reject_the_next_token_once

        function.run()

        listings = [became for operation, _, became in ecr.call_log if operation == LIST]
        assert listings.count("InvalidParameterException") == 1
        assert all(ecr.policies.values())
        assert ecr.calls[WRITE] == 440

    def test_starts_at_most_three_new_listings_and_is_an_error_in_the_end(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.limit, function.seconds_per_call = 60, 0.25
        ecr.create_repository(*names(440))
        ecr.valid_tokens = 0

        with pytest.raises(Exception, match="nextToken"):
            function.run()

        assert len(function.answers) < 6
        listings = [became for operation, _, became in ecr.call_log if operation == LIST]
        assert listings.count("InvalidParameterException") == 4
        assert len(listings) == 8


class TestAForeignRoleThatWasDeletedAMomentAgo:
    def test_locks_no_worker_role_out_of_other_repositories(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(30, "poisoned"), policy=document(allow("Push", "ecr:PutImage", VENDOR)))
        ecr.create_repository(*names(300))
        ecr.delete_role(VENDOR, still_shown=True)

        with pytest.raises(RepositoriesFailed, match=r"^30 of 330 .*Find the principal") as caught:
            function.run(*names(30, "poisoned"), *names(300))

        assert "unexpected" not in str(caught.value)

        assert all(ecr.policies[name] for name in names(300))

    def test_locks_no_worker_role_out_if_it_was_in_our_statement(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(30, "poisoned"), policy=document(grant(VENDOR)))
        ecr.create_repository(*names(300))
        ecr.delete_role(VENDOR, still_shown=True)

        with pytest.raises(RepositoriesFailed, match=r"^30 of 330 "):
            function.run(*names(30, "poisoned"), *names(300))

        assert all(ecr.policies[name] for name in names(300))


class TestReadsThatLagBehindWrites:
    @pytest.mark.parametrize("lag", [0.05, 0.3, 1.0])
    def test_cost_no_role_its_grant(self, ecr: FakeEcr, function: Function, lag: float) -> None:
        function.roles = ROLES[:20]
        ecr.delete_role(ROLES[7])
        ecr.create_repository("app", policy=document(allow("Push", "ecr:PutImage", VENDOR)))
        ecr.read_lag = lag

        with pytest.raises(RepositoriesFailed, match=ROLES[7]):
            function.run("app")

        statements = ecr.get_policy("app")["Statement"]  # type: ignore[index]
        assert set(statements[-1]["Principal"]["AWS"]) == set(ROLES[:20]) - {ROLES[7]}


class TestAPolicyNearTheMaximumLength:
    def padded(self, space_for: int, *statements: Policy) -> Policy:
        """Build a policy with space for our statement and so many roles."""
        ours = len(json.dumps(grant(*ROLES[:space_for]), separators=(",", ":"))) + 1
        fixed = [allow("Push", "ecr:PutImage", "arn:aws:iam::444444444444:root") | {"Sid": ""}, *statements]
        base = len(json.dumps(document(*fixed), separators=(",", ":")))
        return document(fixed[0] | {"Sid": "x" * (10_240 - base - ours - 5)}, *statements)

    def test_gets_the_role_that_fits_and_the_other_is_named(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = [A, B]
        ecr.create_repository("app", policy=self.padded(1))

        with pytest.raises(RepositoriesFailed, match=f"No space for {B}: .*ECR allows 10,240: shorten"):
            function.run("app")

        assert function.answers[0]["repositories"][0]["added"] == {"AllowPull": [A]}
        assert ecr.get_policy("app")["Statement"][-1] == normalized(document(grant(A)))["Statement"][0]  # type: ignore[index]

    def test_gets_the_role_that_exists_if_a_missing_one_takes_the_room(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = [A, B]
        ecr.delete_role(A)
        ecr.create_repository("app", policy=self.padded(1))

        with pytest.raises(RepositoriesFailed, match=A):
            function.run("app")

        assert function.answers[0]["repositories"][0]["added"] == {"AllowPull": [B]}

    def test_gives_up_the_ids_of_deleted_roles_in_our_statement(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.rejects_deleted_principals = False
        ecr.create_repository("app")
        ecr.set_policy("app", self.padded(0, grant(*ROLES[10:19])))
        for role in ROLES[10:19]:
            ecr.delete_role(role)
        filler = ecr.policies["app"]["Statement"][0]
        used = len(json.dumps(ecr.policies["app"], separators=(",", ":")))
        filler["Sid"] += "x" * (10_240 - used - 40)

        function.run("app")

        assert ecr.get_policy("app")["Statement"][-1] == normalized(document(grant(A)))["Statement"][0]  # type: ignore[index]

    def test_in_a_dry_run_says_the_same(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = [A, B]
        function.settings["MODE"] = "plan"
        ecr.create_repository("app", policy=self.padded(1))

        with pytest.raises(RepositoriesFailed, match=f"No space for {B}"):
            function.run("app")

        assert function.answers[0]["repositories"][0]["added"] == {"AllowPull": [A]}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *(("Throttling", 400), ("ThrottledException", 400), ("RequestLimitExceeded", 503), ("SlowDown", 400)),
        *(("RequestThrottled", 400), ("ThrottleException", 400), ("TooManyRequestsException", 429)),
        *(("RequestTimeout", 408), ("RequestTimeoutException", 400), ("PriorRequestNotComplete", 400)),
    ],
)
@pytest.mark.parametrize("operation", [READ, WRITE, LIST])
def test_what_the_sdk_would_retry_is_retried(
    ecr: FakeEcr, function: Function, operation: str, code: str, status: int
) -> None:
    ecr.create_repository("app")
    ecr.inject_faults(operation, EcrError(code, "try again", status))

    assert function.run()["outcomes"] == {"attached": 1}


class TestProofs:
    """One of two roles is missing: that is proved once, and costs little from then on."""

    def calls_for(self, ecr: FakeEcr, function: Function, policy: Policy | None, count: int = 200) -> int:
        function.roles = [A, B]
        ecr.create_repository(*names(count), policy=policy)
        if B in ecr.roles:
            ecr.delete_role(B)
        with pytest.raises(RepositoriesFailed, match=B):
            function.run(*names(count))
        return ecr.calls.total()

    @pytest.mark.parametrize("ids_rejected", [True, False])
    @pytest.mark.parametrize("granted", [(B,), (A, B), (VENDOR, A), (A,), ()])
    @pytest.mark.parametrize("foreign", [True, False])
    def test_bound_the_calls_of_a_sweep(
        self, ecr: FakeEcr, function: Function, granted: tuple[str, ...], *, foreign: bool, ids_rejected: bool
    ) -> None:
        ecr.rejects_deleted_principals = ids_rejected
        statements = [allow("Push", "ecr:PutImage", "444444444444")] if foreign else []
        statements += [grant(*granted)] if granted else []

        calls = self.calls_for(ecr, function, document(*statements) if statements else None)

        healthy = 200 if A in granted else 400
        assert calls <= 1.3 * healthy + MAX_CONCURRENCY * 6
        for name in names(200):
            policy = ecr.get_policy(name)
            assert policy
            assert A in str(policy)

    def test_share_what_threads_learn_at_the_same_time(self) -> None:
        roles = RoleKnowledge()
        stop = threading.Event()

        def learn(number: int) -> None:
            while not stop.is_set():
                roles.record_missing(ROLES[number::4])
                roles.record_existing(ROLES[number::8])

        threads = [threading.Thread(target=learn, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20_000):
            assert len(sorted(roles.missing) + sorted(roles.existing)) <= 2 * len(ROLES)
        stop.set()
        for thread in threads:
            thread.join()

        assert roles.existing & roles.missing == frozenset()


class TestTheAnswer:
    def test_stays_below_256_kb_whatever_the_policies_hold(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = ROLES
        denials = [
            {"Sid": f"Deny{n}" + "x" * 100, "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}
            for n in range(20)
        ]
        ecr.create_repository(*names(110), policy=document(*denials))

        answer = function.run()

        assert len(json.dumps(answer)) < 256 * 1024
        assert answer["truncated"] is True
        assert answer["denied"] == 110
        assert answer["repositories"]

    def test_stays_below_256_kb_for_the_longest_patterns(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")

        answer = function.run("app", *(f"no-such-{n}-" + "x" * 480 + "*" for n in range(900)))

        assert len(json.dumps(answer)) < 256 * 1024
        assert answer["unmatched"]


def test_a_response_that_never_comes_does_not_outlast_the_deadline() -> None:
    with FakeEcr().serving() as ecr:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.TIMEOUT] * 100)
        function = Function(ecr)
        started = time.monotonic()
        function.elapsed = lambda: time.monotonic() - started  # type: ignore[method-assign]
        function.limit = 1

        with pytest.raises(RepositoriesFailed, match="no attempt succeeded in time"):
            function.run("app")


class TestSeveralGrants:
    @pytest.fixture(autouse=True)
    def two_grants(self, function: Function) -> None:
        function.settings["PULL_THROUGH_CACHE_REPOSITORIES"] = "*"
        function.settings["DESCRIBE_ROLE_ARNS"] = f"{B},{VENDOR}"

    def test_cost_two_calls_for_a_new_repository_and_one_for_a_settled_one(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository("app")

        function.run("app")
        assert ecr.calls == {READ: 1, WRITE: 1}
        assert function.answers[0]["repositories"][0]["added"] == {
            "AllowPull": [A],
            "AllowDescribeImages": [B, VENDOR],
            "AllowPullThroughCache": [A],
        }

        function.run("app")
        assert ecr.calls == {READ: 2, WRITE: 1}

    def test_are_attached_but_for_a_role_that_does_not_exist(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.delete_role(B)

        with pytest.raises(RepositoriesFailed, match=f"refused the role {B}"):
            function.run("app")

        assert function.answers[0]["repositories"][0]["added"] == {
            "AllowPull": [A],
            "AllowDescribeImages": [VENDOR],
            "AllowPullThroughCache": [A],
        }

    def test_keep_the_last_roles_of_a_grant_of_which_no_listed_role_exists(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.settings["REMOVE_UNLISTED_ROLES"] = "true"
        function.settings["DESCRIBE_ROLE_ARNS"] = B
        ecr.create_repository(
            "app", policy=document(grant(VENDOR), allow("AllowDescribeImages", "ecr:DescribeImages", VENDOR))
        )
        ecr.delete_role(B)

        with pytest.raises(RepositoriesFailed, match=B):
            function.run("app")

        answer = function.answers[0]["repositories"][0]
        assert answer["removed"] == {"AllowPull": [VENDOR]}
        assert "AllowDescribeImages" not in answer["added"]

    def test_of_fifty_roles_each_get_what_fits_and_name_the_rest(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = ROLES
        function.settings["DESCRIBE_ROLE_ARNS"] = ",".join(ROLES)
        foreign = allow("Push" + "x" * 1000, "ecr:PutImage", "arn:aws:iam::444444444444:root")
        ecr.create_repository("app", policy=document(foreign))

        with pytest.raises(RepositoriesFailed, match="No space for "):
            function.run("app")

        added = function.answers[0]["repositories"][0]["added"]
        assert sum(map(len, added.values())) > 100
        policy = ecr.get_policy("app")
        assert policy
        assert len(json.dumps(policy, separators=(",", ":"))) > 10_240 - 3 * (len(ROLES[0]) + 3)

"""Sweeps under adverse conditions: the real SDK against a fake ECR, over several invocations."""

import json
import time

import pytest

from devstack.fake_ecr import LIST, READ, WRITE, EcrError, FakeEcr, Fault, normalized
from handler.ecr.registry import MAX_CONCURRENCY, Registry
from handler.report.report import RepositoriesFailed
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function
from tests.unit.policies import DENY, ROLES, VENDOR, A, B, Policy, allow, document, grant, push
from tests.unit.virtual_time import limiter_without_waits

ADDRESS_LIKE = "602401143452.dkr.ecr.us-west-2.amazonaws.com/eks/coredns"


@pytest.fixture(autouse=True)
def small_pages(ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few hundred repositories take several pages and invocations."""
    ecr.max_page_size = 200
    monkeypatch.setattr("handler.reconcile.sweep.MAX_FAILED_NAMES", 200)


def names(count: int, prefix: str = "app") -> list[str]:
    return [f"{prefix}-{number:04}" for number in range(count)]


def without_policy(ecr: FakeEcr) -> list[str]:
    return [name for name in users_repositories(ecr) if ecr.policies[name] is None]


def users_repositories(ecr: FakeEcr) -> list[str]:
    return [name for name in ecr.policies if name != ROLE_CHECK_REPOSITORY]


class TestARepositoryNamedLikeAnAddress:
    def test_is_reconciled_in_a_continuation(self, ecr: FakeEcr, function: Function) -> None:
        function.timeout, function.seconds_per_call = 30, 0.25
        ecr.create_repository(*names(240), *(f"{ADDRESS_LIKE}-{n}" for n in range(60)))

        function.run()

        assert len(function.answers) > 1
        assert without_policy(ecr) == []

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
        function.timeout, function.seconds_per_call = 30, 0.25

        def enough_time_for_all() -> None:
            function.timeout = 900

        function.between = enough_time_for_all

    def test_are_reconciled_again_at_the_end(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(300))
        denied = EcrError("AccessDeniedException", "not authorized")
        ecr.inject_faults(READ, denied, denied, denied)

        function.run()

        assert len(function.answers) > 1
        assert function.answers[0]["outcomes"]["failed"] == 3
        assert without_policy(ecr) == []

    def test_are_reconciled_again_with_a_role_that_exists_by_then(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository(*names(240))

        def create_role() -> None:
            function.timeout, function.now = 900, function.now + 60
            if B not in ecr.roles:
                ecr.create_role(B)

        function.between = create_role

        function.run()

        assert function.answers[0]["missing_roles"][0]["role"] == B
        assert function.answers[0]["continued"] is True
        expected = normalized(document(grant(A, B)))
        assert all(ecr.get_policy(name) == expected for name in users_repositories(ecr))

    def test_that_remain_are_named_with_their_reason_and_repeated_by_a_retry(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(300))
        denied = EcrError("AccessDeniedException", "not authorized")
        for name in names(3):
            ecr.inject_faults(READ, *[denied] * 100, repository=name)

        with pytest.raises(RepositoriesFailed, match=r"3 of \d+ .*app-0002: .*AccessDeniedException"):
            function.run()

        ecr.clear_faults()
        retried_by_lambda = function.invoke(function.payload)
        assert retried_by_lambda.continuation is None
        assert retried_by_lambda.error is None
        assert without_policy(ecr) == []

    def test_beyond_the_named_ones_are_counted(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository(*names(480))
        function.timeout = 200

        with pytest.raises(RepositoriesFailed, match=r"\d+ more failed in earlier invocations"):
            function.run()


class TestARepositoryWhoseWriteIsAlwaysThrottled:
    def test_fails_alone_after_all_others(self, ecr: FakeEcr, function: Function) -> None:
        function.timeout, function.seconds_per_call, function.seconds_per_delay = 30, 0.15, 6.4
        ecr.create_repository(*names(300), "stuck")
        ecr.inject_faults(WRITE, *[Fault.THROTTLED] * 10_000, repository="stuck")

        with pytest.raises(RepositoriesFailed, match=r"^1 of \d+ repositories failed: stuck: no attempt"):
            function.run()

        assert len(function.answers) < 12
        assert without_policy(ecr) == ["stuck"]


class TestAPageTokenThatEcrNoLongerAccepts:
    def test_costs_a_new_listing_and_one_read_for_what_is_done(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.timeout, function.seconds_per_call = 60, 0.25
        ecr.create_repository(*names(440))

        def reject_the_next_token_once() -> None:
            if len(function.answers) == 1:
                ecr.valid_tokens = 0
                ecr.run_after(LIST, lambda: setattr(ecr, "valid_tokens", None))

        function.between = reject_the_next_token_once

        function.run()

        listings = [became for operation, _, became in ecr.call_log if operation == LIST]
        assert listings.count("InvalidParameterException") == 1
        assert without_policy(ecr) == []
        assert ecr.calls[WRITE] == 440

    def test_starts_at_most_three_new_listings_and_is_an_error_in_the_end(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.timeout, function.seconds_per_call = 60, 0.25
        ecr.create_repository(*names(440))
        ecr.valid_tokens = 0

        with pytest.raises(Exception, match="nextToken"):
            function.run()

        assert len(function.answers) < 7
        listings = [became for operation, _, became in ecr.call_log if operation == LIST]
        assert listings.count("InvalidParameterException") == 4
        assert len(listings) == 8


class TestAForeignRoleThatWasDeletedAMomentAgo:
    def test_locks_no_worker_role_out_of_other_repositories(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(30, "poisoned"), policy=document(push(VENDOR)))
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
    @pytest.mark.parametrize("lag", [0.05, 0.3])
    def test_cost_no_role_its_grant(self, ecr: FakeEcr, function: Function, lag: float) -> None:
        function.roles = ROLES[:20]
        ecr.delete_role(ROLES[7])
        ecr.create_repository("app", policy=document(push(VENDOR)))
        ecr.read_lag = lag

        with pytest.raises(RepositoriesFailed, match=ROLES[7]):
            function.run("app")

        statements = ecr.get_policy("app")["Statement"]  # type: ignore[index]
        assert set(statements[-1]["Principal"]["AWS"]) == set(ROLES[:20]) - {ROLES[7]}

    @pytest.mark.parametrize("stale_reads", [1, 2])
    def test_after_a_lost_response_cost_no_more_than_the_same_write_again(
        self, ecr: FakeEcr, function: Function, stale_reads: int
    ) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=document(push(VENDOR), grant(A)))
        ecr.stale_reads = stale_reads
        ecr.inject_faults(WRITE, Fault.RESET_BUT_APPLIED)

        assert function.run("app")["outcomes"] == {"attached": 1}

        assert ecr.calls[WRITE] == 2
        assert ecr.get_policy("app") == normalized(document(push(VENDOR), grant(A, B)))


class TestAPolicyNearTheMaximumLength:
    def padded(self, space_for: int, *statements: Policy) -> Policy:
        """Build a policy with space for our statement and so many roles."""
        ours = len(json.dumps(grant(*ROLES[:space_for]), separators=(",", ":"))) + 1
        fixed = [push("arn:aws:iam::444444444444:root", sid=""), *statements]
        base = len(json.dumps(document(*fixed), separators=(",", ":")))
        return document(fixed[0] | {"Sid": "x" * (10_240 - base - ours - 5)}, *statements)

    def test_gets_the_role_that_fits_and_the_other_is_named(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.create_repository("app", policy=self.padded(1))

        with pytest.raises(RepositoriesFailed, match=f"no space for {B}: .*ECR allows 10,240: shorten"):
            function.run("app")

        (details,) = function.answers[0]["repositories"]
        assert details["outcome"] == "incomplete"
        assert details["added"] == {"AllowPull": [A]}
        assert ecr.get_policy("app")["Statement"][-1] == normalized(document(grant(A)))["Statement"][0]  # type: ignore[index]

    def test_gets_the_role_that_exists_if_a_missing_one_takes_the_space(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        function.roles = (A, B)
        ecr.delete_role(A)
        ecr.create_repository("app", policy=self.padded(1))

        with pytest.raises(RepositoriesFailed, match=f"^The role {A} is missing in 1 of 1 repositories: "):
            function.run("app")

        (details,) = function.answers[0]["repositories"]
        assert details["outcome"] == "incomplete"
        assert details["added"] == {"AllowPull": [B]}

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
        function.roles = (A, B)
        function.settings["MODE"] = "plan"
        ecr.create_repository("app", policy=self.padded(1))

        with pytest.raises(RepositoriesFailed, match=f"no space for {B}"):
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


class TestOneMissingRoleOfTwo:
    @pytest.mark.parametrize("ids_rejected", [True, False])
    @pytest.mark.parametrize("granted", [(B,), (A, B), (VENDOR, A), (A,), ()])
    @pytest.mark.parametrize("foreign", [True, False])
    def test_costs_a_sweep_no_more_than_a_few_calls(
        self, ecr: FakeEcr, function: Function, granted: tuple[str, ...], *, foreign: bool, ids_rejected: bool
    ) -> None:
        ecr.rejects_deleted_principals = ids_rejected
        statements = [push("444444444444")] if foreign else []
        statements += [grant(*granted)] if granted else []
        ecr.create_repository(*names(200), policy=document(*statements) if statements else None)
        ecr.delete_role(B)
        function.roles = (A, B)

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 200 of 200 repositories"):
            function.run(*names(200))

        healthy = 200 if A in granted else 400
        # Until the answer is there, each thread has one write rejected and repeats its read.
        assert ecr.calls[READ] + ecr.calls[WRITE] <= healthy + 2 * MAX_CONCURRENCY + 2
        assert all(A in str(ecr.get_policy(name)) for name in names(200))


class TestARoleThatChangesDuringASweep:
    @pytest.fixture(autouse=True)
    def two_roles(self, function: Function) -> None:
        function.roles = (A, B)

    def test_and_is_recreated_keeps_every_grant(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(100))

        def recreate() -> None:
            ecr.delete_role(B)
            ecr.create_role(B)

        ecr.run_after(WRITE, *[lambda: None] * 40, recreate)

        function.run()
        answer = function.run()

        assert answer["recreated"][0]["role"] == B
        expected = normalized(document(grant(A, B)))
        assert all(ecr.get_policy(name) == expected for name in names(100))

    def test_and_appears_is_granted_by_a_retry_a_minute_later(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository(*names(100))
        ecr.delete_role(B)
        ecr.run_after(WRITE, *[lambda: None] * 60, lambda: ecr.create_role(B))
        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing"):
            function.run()

        function.now += 60
        function.run()

        expected = normalized(document(grant(A, B)))
        assert all(ecr.get_policy(name) == expected for name in names(100))

    def test_is_asked_about_again_in_a_sweep_that_takes_minutes(
        self, ecr: FakeEcr, function: Function
    ) -> None:
        ecr.create_repository(*names(300))
        ecr.delete_role(B)
        function.seconds_per_call = 0.5

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing"):
            function.run()

        minutes = (function.elapsed() - 1_000) / 60
        checks = [name for _, name, _ in ecr.call_log].count(ROLE_CHECK_REPOSITORY)
        # At first, the sweep asks about both roles; from then on, it knows one that exists from its policies.
        assert minutes > 4
        assert minutes / 2 <= checks <= 2 * (60 / 45 * minutes + 1)


class TestARoleCheckWhoseRepositoryIsGone:
    @pytest.fixture(autouse=True)
    def one_missing_role(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = (A, B)
        ecr.delete_role(B)
        ecr.create_repository(*names(50, "granted"), policy=document(grant(A)))
        ecr.create_repository(*names(50, "new"))
        ecr.delete_repository(ROLE_CHECK_REPOSITORY)

    def test_fails_a_sweep_with_the_command_that_restores_it(self, ecr: FakeEcr, function: Function) -> None:
        command = f"aws ecr create-repository --repository-name {ROLE_CHECK_REPOSITORY}"

        with pytest.raises(RepositoriesFailed, match=f"^100 of 100 repositories failed: .*{command}"):
            function.run()

        assert "missing_roles" not in function.answers[0]
        assert without_policy(ecr) == names(50, "new")

    def test_costs_no_grant_once_it_is_restored(self, ecr: FakeEcr, function: Function) -> None:
        with pytest.raises(RepositoriesFailed):
            function.run()
        ecr.create_repository(ROLE_CHECK_REPOSITORY)
        function.now += 60

        with pytest.raises(RepositoriesFailed, match=f"^The role {B} is missing in 100 of 100 repositories"):
            function.run()

        assert without_policy(ecr) == []

    def test_does_not_matter_while_no_role_is_missing(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_role(B)

        assert function.run()["outcomes"] == {"attached": 100}
        assert ecr.calls[READ] == ecr.calls[WRITE] == 100


class TestTheAnswer:
    def test_stays_below_256_kb_whatever_the_policies_hold(self, ecr: FakeEcr, function: Function) -> None:
        function.roles = ROLES
        denials = [DENY | {"Sid": f"Deny{n}" + "x" * 100, "Action": "ecr:BatchGetImage"} for n in range(20)]
        ecr.create_repository(*names(110), policy=document(*denials))

        answer = function.run()

        assert len(json.dumps(answer)) < 256 * 1024
        assert answer["truncated"] is True
        assert answer["denied"] == 110
        assert answer["repositories"]

    def test_stays_below_256_kb_for_the_longest_patterns(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")

        answer = function.run("app", *(f"no-such-{n:03}-" + "x" * 487 + "*" for n in range(199)))

        assert len(json.dumps(answer)) < 256 * 1024
        assert answer["unmatched"]


def test_a_response_that_never_comes_does_not_outlast_the_deadline() -> None:
    with FakeEcr().serving() as ecr:
        ecr.create_repository("app")
        ecr.inject_faults(READ, *[Fault.TIMEOUT] * 100)
        registry = Registry(ecr.client(read_timeout=2), limiter_without_waits())
        function = Function(ecr, registry=registry, timeout=1)
        function.elapsed = time.monotonic  # type: ignore[method-assign]

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
        assert (ecr.calls[READ], ecr.calls[WRITE]) == (1, 1)
        assert function.answers[0]["repositories"][0]["added"] == {
            "AllowPull": [A],
            "AllowDescribeImages": [B, VENDOR],
            "AllowPullThroughCache": [A],
        }

        function.run("app")
        assert (ecr.calls[READ], ecr.calls[WRITE]) == (2, 1)

    def test_are_attached_but_for_a_role_that_does_not_exist(self, ecr: FakeEcr, function: Function) -> None:
        ecr.create_repository("app")
        ecr.delete_role(B)

        with pytest.raises(RepositoriesFailed, match=f"The role {B} is missing in 1 of 1 repositories"):
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
        foreign = push("arn:aws:iam::444444444444:root", sid="Push" + "x" * 1000)
        ecr.create_repository("app", policy=document(foreign))

        with pytest.raises(RepositoriesFailed, match="no space for "):
            function.run("app")

        added = function.answers[0]["repositories"][0]["added"]
        assert sum(map(len, added.values())) > 100
        policy = ecr.get_policy("app")
        assert policy
        assert len(json.dumps(policy, separators=(",", ":"))) > 10_240 - 3 * (len(ROLES[0]) + 3)

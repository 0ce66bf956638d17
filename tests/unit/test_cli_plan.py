"""Tests `plan` on the fake AWS: what it shows, its exit codes and errors, and that it cannot write."""

import json
import os
import re
import signal
from collections import Counter
from functools import partial
from typing import Any

import pytest

from cli.plan import command
from cli.plan.run import Stop
from devstack.fake_aws import FakeAws
from devstack.fake_ecr import LIST, READ, WRITE, EcrError, FakeEcr, Fault
from devstack.host import free_port
from handler.ecr.registry import MAX_CONCURRENCY
from scripts import plan_picture
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.command_line import (
    DENY,
    GRANT,
    OTHER_ROLE,
    REPOSITORY_ARN,
    ROLE,
    VPC,
    Output,
    Run,
    assert_one_sentence,
    policy,
)
from tests.unit.function import Function
from tests.unit.virtual_time import limiter_without_waits

NOT_READABLE = EcrError(
    "AccessDeniedException", "not authorized to perform: ecr:GetRepositoryPolicy with an explicit deny"
)
EXPIRED = EcrError("ExpiredTokenException", "The security token included in the request is expired")


@pytest.fixture
def aws() -> FakeAws:
    aws = FakeAws()
    aws.ecr.create_role(ROLE, OTHER_ROLE)
    return aws


@pytest.fixture
def ecr(aws: FakeAws) -> FakeEcr:
    return aws.ecr


@pytest.fixture
def run_plan(run: Run) -> Run:
    def run_plan(*arguments: str, **environment: str | None) -> Output:
        return run("plan", *arguments, **({"WORKER_ROLE_ARNS": ROLE} | environment))

    return run_plan


class TestExitCode:
    def test_is_0_if_every_repository_has_the_grant(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", "ml/train", policy=policy(GRANT))

        output = run_plan()

        assert output.code == 0
        assert output.has("2 repositories", "2 with every grant", "0 would change", "✓ Nothing to do.")

    def test_is_1_for_an_empty_registry(self, run_plan: Run) -> None:
        output = run_plan()

        assert output.code == 1
        assert output.has(
            "Plan for the registry of us-east-1",
            "0 repositories",
            "✗ No repositories. Check the account and the region (--profile, --region).",
        )

    def test_is_1_for_a_scope_that_selects_nothing(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))

        output = run_plan("--repositories", "taem/*")

        assert output.code == 1
        assert output.has("1 out of scope", "✗ No repository is in scope. Check --repositories.")

    def test_is_1_for_a_glob_of_several_that_matches_nothing(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))

        output = run_plan("--repositories", "team/*,nope/*")

        assert output.code == 1
        assert output.has("✗ No repository matches nope/*. Check --repositories.")
        assert run_plan("--json", "--repositories", "team/*,nope/*").json["unmatched"] == ["nope/*"]

    def test_is_0_for_a_cache_without_repositories_which_is_named(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))

        output = run_plan("--pull-through-cache-repositories", "docker-hub/*")

        assert output.code == 0
        assert output.has("! No repository matches: docker-hub/*", "✓ Nothing to do.")

    def test_is_3_if_nothing_is_to_write_and_a_statement_denies_the_pull(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT, DENY))

        output = run_plan()

        assert output.code == 3
        assert output.has("! Nothing to write, but pulls stay denied by the statements above.")

    def test_is_3_if_the_registry_policy_denies_the_pull(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))
        ecr.registry_policy = policy(DENY | {"Resource": "*"})

        assert run_plan().code == 3

    def test_is_0_if_only_a_condition_or_an_optional_action_is_denied(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        optional = DENY | {"Action": "ecr:BatchCheckLayerAvailability"}
        ecr.create_repository("team/app", policy=policy(GRANT, DENY | VPC))
        ecr.create_repository("ml/train", policy=policy(GRANT, optional))

        assert run_plan().code == 0

    def test_is_2_if_a_repository_would_change(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("granted/app", policy=policy(GRANT))
        ecr.create_repository("team/app", "ml/train")

        output = run_plan()

        assert output.code == 2
        assert output.has(
            "Plan for the registry of account 111122223333, us-east-1",
            "3 repositories",
            "1 with every grant",
            "2 would change",
            "2 repositories would change",
            f"+ AllowPull {ROLE}",
            "ml/train, team/app",
            "2 repositories would change. Nothing was written.",
        )
        assert {operation for operation, *_ in ecr.call_log} == {LIST, READ, "GetRegistryPolicy"}

    def test_is_1_if_a_repository_cannot_be_read_even_if_others_would_change(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        ecr.create_repository("team/app", "security/vault")
        ecr.inject_faults(READ, NOT_READABLE, repository="security/vault")

        output = run_plan()

        assert output.code == 1
        assert output.has("1 would change", "1 failed, for the reasons below", "security/vault")
        assert "GetRepositoryPolicy: AccessDeniedException" in output.out
        assert not output.err


class TestARepositoryWithoutSpaceForEveryRole:
    """There is space for the first role, and not for the second one."""

    LONG_ROLE = f"arn:aws:iam::222222222222:role/{'path/' * 90}node-group"

    @pytest.fixture(autouse=True)
    def full_repository(self, ecr: FakeEcr, monkeypatch: pytest.MonkeyPatch) -> None:
        ecr.create_role(self.LONG_ROLE)
        ecr.create_repository("full/app", policy=policy(DENY | {"Effect": "Allow", "Sid": "x" * 9_700}))
        monkeypatch.setenv("WORKER_ROLE_ARNS", f"{ROLE},{self.LONG_ROLE}")

    def test_fails_and_shows_what_would_be_added_there(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository(
            "team/app", policy=policy(GRANT | {"Principal": {"AWS": [ROLE, self.LONG_ROLE]}})
        )

        output = run_plan(WORKER_ROLE_ARNS=os.environ["WORKER_ROLE_ARNS"])

        assert output.code == 1
        assert output.has(
            "2 repositories", "1 with every grant", "0 would change", "1 failed, for the reasons below"
        )
        assert output.has(f"+ AllowPull {ROLE}", "full/app", "✗ 1 repository failed. Nothing was written.")
        assert f"nospacefor{self.LONG_ROLE}" in "".join(output.out.split())
        assert ecr.calls[WRITE] == 0

    def test_is_listed_with_both_in_json(self, run_plan: Run) -> None:
        output = run_plan("--json", WORKER_ROLE_ARNS=os.environ["WORKER_ROLE_ARNS"])

        assert output.code == 1
        (result,) = output.json["repositories"]
        assert result["outcome"] == "incomplete"
        assert result["added"] == {"AllowPull": [ROLE]}
        assert "characters and ECR allows 10,240" in result["reason"]
        assert output.json["outcomes"] == {"incomplete": 1}


def test_the_repositories_for_role_checks_are_out_of_scope(ecr: FakeEcr, run_plan: Run) -> None:
    ecr.create_repository("ecr-allow-pull-role-check/of-a-stack")
    ecr.create_repository("team/app", policy=policy(GRANT))

    output = run_plan()

    assert output.code == 0
    assert output.has("2 repositories", "1 with every grant", "1 out of scope", "✓ Nothing to do.")
    assert [name for operation, name, _ in ecr.call_log if operation == READ] == ["team/app"]


class TestSettings:
    def test_repositories_selects_the_scope(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", "ml/train", "scratch/x")

        output = run_plan(REPOSITORIES="*,!scratch/*")

        assert output.has("3 repositories", "2 would change", "1 out of scope")
        assert ("GetRepositoryPolicy", "scratch/x", "served") not in ecr.call_log

    def test_remove_unlisted_roles_shows_what_would_be_removed(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}))

        assert run_plan().code == 0
        output = run_plan(REMOVE_UNLISTED_ROLES="true")

        assert output.code == 2
        assert output.has(f"- AllowPull {OTHER_ROLE}")

    def test_other_grants_are_planned_too(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))

        output = run_plan(DESCRIBE_ROLE_ARNS=OTHER_ROLE, PULL_THROUGH_CACHE_REPOSITORIES="team/*")

        assert output.code == 2
        assert output.has(f"+ AllowDescribeImages {OTHER_ROLE}", f"+ AllowPullThroughCache {ROLE}")

    @pytest.mark.parametrize("mode", ["enforce", "plan", "Plan"])
    def test_plan_mode_shows_what_the_function_would_attach(
        self, ecr: FakeEcr, run_plan: Run, mode: str
    ) -> None:
        ecr.create_repository("team/app")

        assert run_plan(MODE=mode).code == 2
        assert ecr.calls[WRITE] == 0


def test_a_statement_that_denies_the_grant_is_named(ecr: FakeEcr, run_plan: Run) -> None:
    ecr.create_repository("denied/a", "denied/b", policy=policy(GRANT, DENY))
    ecr.create_repository("denied/c", policy=policy(GRANT, DENY | VPC))

    output = run_plan()

    assert output.code == 3
    assert output.has("3 with every grant", "3 of these: with a foreign statement that denies a grant")
    assert f'"Quarantine" denies AllowPull to {ROLE} denied/a, denied/b' in output.words
    assert '"Quarantine" denies AllowPull under a condition to' in output.out


class TestRegistryPolicy:
    PULL = GRANT | {"Resource": "arn:aws:ecr:us-east-1:111122223333:repository/*"}

    def test_that_allows_the_pull_is_shown(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app")
        ecr.registry_policy = policy(self.PULL)

        output = run_plan()

        assert output.code == 2
        assert "The registry's policy allows the pull by the worker roles" in output.out
        assert run_plan("--json").json["registry_policy"]["status"] == "allows"

    def test_that_denies_the_grant_is_shown_with_the_statement(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))
        ecr.registry_policy = policy(DENY | {"Resource": "*"})

        output = run_plan()

        assert "The registry's policy denies the pull by the worker roles" in output.out
        assert '"Quarantine" denies AllowPull' in output.out

    def test_that_says_nothing_is_not_shown(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app")

        assert "registry's policy" not in run_plan().out
        assert run_plan("--json").json["registry_policy"] == {"status": "silent"}

    def test_that_cannot_be_read_is_no_error(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))
        ecr.denied_operations = {"GetRegistryPolicy"}

        output = run_plan()

        assert output.code == 0
        assert "The registry's policy is unknown: ECR refused GetRegistryPolicy" in output.out


def test_long_lists_are_shortened_in_the_table_and_complete_in_json(ecr: FakeEcr, run_plan: Run) -> None:
    names = [f"team/app-{number:03}" for number in range(100)]
    ecr.create_repository(*names)

    assert "team/app-011, … and 88 more" in run_plan().words
    assert [one["repository"] for one in run_plan("--json").json["repositories"]] == names


class TestGroups:
    """What several repositories share is shown once, with their names."""

    @staticmethod
    def fail(ecr: FakeEcr, name: str, message: str) -> None:
        ecr.create_repository(name)
        ecr.inject_faults(READ, EcrError("InvalidParameterException", message), repository=name)

    def test_of_failures_do_not_depend_on_the_repository_that_the_reason_names(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        for name in ("team/app", "team/app-2", "ecr"):
            self.fail(ecr, name, f"{REPOSITORY_ARN}/{name} has a fault")
        for name in ("ml/train", "policy"):
            self.fail(ecr, name, f"The repository with name '{name}' has a faulty policy")

        output = run_plan()

        assert "3 repositories failed" in output.words
        assert f"{REPOSITORY_ARN}/… has a fault ecr, team/app, team/app-2" in output.words
        assert "2 repositories failed" in output.words
        assert "The repository with name '…' has a faulty policy ml/train, policy" in output.words

    def test_of_failures_are_separate_for_different_reasons(self, ecr: FakeEcr, run_plan: Run) -> None:
        self.fail(ecr, "team/app", f"{REPOSITORY_ARN}/other has a fault")
        self.fail(ecr, "team/web", f"{REPOSITORY_ARN}/team/web has a fault")

        assert run_plan().out.count("1 repository failed") == 2

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ({"Principal": {"AWS": f"{OTHER_ROLE}-{{}}"}}, "principals"),
            ({"Sid": "No{}", "Effect": "Deny"}, "statements that deny a grant"),
        ],
        ids=["unlisted", "denied"],
    )
    def test_after_the_tenth_are_counted(
        self, ecr: FakeEcr, run_plan: Run, change: dict[str, Any], kind: str
    ) -> None:
        for number in range(13):
            statement = json.loads(json.dumps(GRANT | change).replace("{}", str(number)))
            ecr.create_role(f"{OTHER_ROLE}-{number}")
            ecr.create_repository(f"team/app-{number:02}", policy=policy(GRANT, statement))

        output = run_plan()

        assert output.has(f"… and 3 more {kind}: see --json")
        assert "team/app-09" in output.out
        assert "team/app-10" not in output.out

    def test_after_the_tenth_reason_and_kind_of_change_are_counted(self, ecr: FakeEcr, run_plan: Run) -> None:
        for number in range(11):
            self.fail(ecr, f"team/app-{number}", f"fault {number}")
            role = f"{OTHER_ROLE}-{number}"
            ecr.create_role(role)
            ecr.create_repository(f"ml/{number}", policy=policy(GRANT | {"Principal": {"AWS": role}}))

        output = run_plan("--remove-unlisted-roles")

        assert output.has("… and 1 more reasons: see --json", "… and 1 more kinds of change: see --json")

    def test_of_ten_are_all_shown(self, ecr: FakeEcr, run_plan: Run) -> None:
        for number in range(10):
            self.fail(ecr, f"team/app-{number}", f"fault {number}")

        output = run_plan()

        assert "fault 9" in output.out
        assert "more reasons" not in output.out

    def test_are_ordered_by_size(self, ecr: FakeEcr, run_plan: Run) -> None:
        self.fail(ecr, "ab", "rare")
        for name in ("xy", "yz"):
            self.fail(ecr, name, "frequent")

        output = run_plan().out

        assert output.index("frequent") < output.index("rare")


class TestJson:
    def test_standard_output_is_one_document_and_progress_goes_to_standard_error(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        ecr.create_repository("team/app", "security/vault")
        ecr.create_repository("denied/app", policy=policy(GRANT, DENY))
        ecr.inject_faults(READ, NOT_READABLE, repository="security/vault")

        output = run_plan("--json", FORCE_COLOR="1")

        document = output.json
        assert output.code == 1
        assert document["account"] == "111122223333"
        assert document["region"] == "us-east-1"
        assert document["complete"] is True
        assert document["listed"] == document["in_scope"] == document["checked"] == 3
        assert document["outcomes"] == {"failed": 1, "unchanged": 1, "would_attach": 1}
        assert document["denied"] == 1
        denied, failed, change = document["repositories"]
        assert change == {"repository": "team/app", "outcome": "would_attach", "added": {"AllowPull": [ROLE]}}
        assert denied["denied_by"][0]["statement"] == '"Quarantine"'
        assert "explicit deny" in failed["reason"]
        assert "Reading policies" in output.err

    def test_lists_what_needs_no_change_only_if_there_is_something_to_say(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        both = GRANT | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}
        ecr.create_repository("granted/app", policy=policy(GRANT))
        ecr.create_repository("unlisted/app", policy=policy(both))
        ecr.create_repository("denied/app", policy=policy(GRANT, DENY))

        document = run_plan("--json").json

        assert document["outcomes"] == {"unchanged": 3}
        assert [each["repository"] for each in document["repositories"]] == ["denied/app", "unlisted/app"]
        assert document["repositories"][1]["unlisted"] == {"AllowPull": [OTHER_ROLE]}
        assert (document["denied"], document["unlisted"]) == (1, 1)

    def test_an_error_prints_nothing_on_standard_output(self, run_plan: Run) -> None:
        output = run_plan("--json", WORKER_ROLE_ARNS="*")

        assert (output.code, output.out) == (1, "")


class TestError:
    """Each error is one sentence that says what to do, without a traceback."""

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"AWS_ACCESS_KEY_ID": None}, "No AWS credentials were found: add --profile"),
            ({"AWS_SECRET_ACCESS_KEY": None}, "No AWS credentials were found: add --profile"),
            ({"AWS_REGION": None}, "No AWS region is set: add --region"),
            ({"AWS_REGION": "us east"}, "The AWS SDK cannot call AWS: Provided region_name 'us east'"),
            ({"AWS_PROFILE": "missing"}, "profile (missing) could not be found: check --profile"),
            (
                {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"},
                "AWS cannot be reached: check the network",
            ),
            (
                {"WORKER_ROLE_ARNS": None},
                "No worker role is given: add --worker-role",
            ),
            ({"WORKER_ROLE_ARNS": "arn:aws:iam::222222222222:user/x"}, "is an IAM user; use the role"),
            ({"REPOSITORIES": "Team/*"}, "REPOSITORIES is 'Team/*'"),
        ],
        ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
    )
    def test_of_the_environment(self, run_plan: Run, change: dict[str, str | None], sentence: str) -> None:
        assert_one_sentence(run_plan(**change), sentence)

    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            (EXPIRED, "The AWS credentials have expired: log in again"),
            (
                EcrError(
                    "UnrecognizedClientException", "The security token included in the request is invalid"
                ),
                "AWS does not accept the credentials (UnrecognizedClientException): check --profile",
            ),
            (
                EcrError(
                    "AccessDeniedException", "User: u is not authorized to perform: ecr:DescribeRepositories"
                ),
                "no permission for DescribeRepositories: allow ecr:DescribeRepositories, ecr:GetRepo",
            ),
        ],
        ids=lambda value: getattr(value, "code", ""),
    )
    def test_of_the_credentials(self, ecr: FakeEcr, run_plan: Run, error: EcrError, sentence: str) -> None:
        ecr.inject_faults(LIST, error)

        assert_one_sentence(run_plan(), sentence)

    def test_of_a_listing_that_keeps_failing(
        self, ecr: FakeEcr, run_plan: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("handler.ecr.retry._FIRST_DELAY", 0.001)
        ecr.inject_faults(LIST, *[Fault.SERVER_ERROR] * 20)

        assert_one_sentence(run_plan(), "ECR refused DescribeRepositories: ServerException: out of order.")

    def test_of_missing_permission_to_read_policies_stops_after_a_few_reads(
        self, ecr: FakeEcr, run_plan: Run
    ) -> None:
        ecr.create_repository(*(f"team/app-{number}" for number in range(1000)))
        ecr.denied_operations = {READ}

        output = run_plan()

        assert output.code == 1
        assert "no permission for GetRepositoryPolicy: allow ecr:DescribeRepositories" in output.err
        assert ecr.calls[READ] <= 3 * MAX_CONCURRENCY

    def test_of_credentials_that_expire_shows_what_is_known(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository(*(f"team/app-{number}" for number in range(1000)))
        expire = [None] * 100 + [lambda: ecr.inject_faults(READ, *[EXPIRED] * 1000)]
        ecr.run_before(READ, *(action or (lambda: None) for action in expire))

        output = run_plan()

        assert output.code == 1
        assert re.search(r"Stopped after 1\d\d of 1,000 repositories", output.out)
        assert "The AWS credentials have expired" in output.err
        assert ecr.calls[READ] < 200


class TestInterrupt:
    """Ctrl-C prints what is known so far."""

    @staticmethod
    def interrupt_before(ecr: FakeEcr, operation: str, call: int) -> None:
        actions = [lambda: None] * (call - 1)
        ecr.run_before(operation, *actions, lambda: os.kill(os.getpid(), signal.SIGINT))

    def test_while_policies_are_read(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository(*(f"team/app-{number}" for number in range(1000)))
        self.interrupt_before(ecr, READ, call=100)

        output = run_plan()

        assert output.code == 130
        known = re.search(r"Stopped after (\d+) of 1,000 repositories", output.out)
        assert known
        assert 70 < int(known[1]) < 200
        assert output.has(f"{known[1]} would change", f"+ AllowPull {ROLE}")
        assert not output.err

    def test_while_repositories_are_listed(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository(*(f"team/app-{number}" for number in range(2500)))
        self.interrupt_before(ecr, LIST, call=3)

        output = run_plan("--json")

        assert output.code == 130
        assert output.json["complete"] is False
        assert output.json["listed"] == 2000
        assert ecr.calls[READ] == 0

    def test_while_ecr_throttles_every_call(
        self, ecr: FakeEcr, run_plan: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("handler.ecr.retry._MAX_DELAY", 0.2)
        ecr.create_repository("team/app", "ml/train")
        ecr.inject_faults(READ, *[Fault.THROTTLED] * 10_000)
        self.interrupt_before(ecr, READ, call=5)

        output = run_plan()

        assert output.code == 130
        assert output.has("2 not read", "Stopped after 0 of 2 repositories.")

    def test_a_second_one_exits_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        codes: list[int] = []
        monkeypatch.setattr(os, "_exit", codes.append)
        stop = Stop()

        command.on_interrupt(stop)
        assert not codes
        command.on_interrupt(stop)

        assert codes == [130]


def test_several_pages_of_repositories_with_throttles_and_failures(
    ecr: FakeEcr, run_plan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without sockets and the waits of the rate limiter, which take most of the time of so many calls.
    monkeypatch.setattr("cli.aws.Aws.ecr_of_the_function", lambda _: ecr.client())
    monkeypatch.setattr("handler.ecr.registry.RateLimiter", limiter_without_waits)
    monkeypatch.setattr("handler.ecr.retry.time.sleep", lambda _: None)
    ecr.max_page_size = 100
    ecr.policies.clear()
    ecr.create_repository(*(f"granted/{number}" for number in range(200)), policy=policy(GRANT))
    ecr.create_repository(*(f"team/app-{number}" for number in range(40)))
    ecr.create_repository(*(f"security/{number}" for number in range(7)), "lost/1", "lost/2", "lost/3")
    for number in range(7):
        ecr.inject_faults(READ, NOT_READABLE, repository=f"security/{number}")
    for number in (1, 2, 3):
        ecr.inject_faults(READ, Fault.SERVER_ERROR, Fault.UNAVAILABLE, repository=f"lost/{number}")
    throttle = partial(ecr.inject_faults, READ, *[Fault.THROTTLED] * 20)
    ecr.run_before(READ, *[lambda: None] * 100, throttle, *[lambda: None] * 50, throttle)

    output = run_plan("--json")

    assert output.code == 1
    assert output.json["complete"] is True
    assert output.json["listed"] == output.json["checked"] == 250
    assert output.json["outcomes"] == {"failed": 7, "unchanged": 200, "would_attach": 43}
    assert Counter(outcome for *_, outcome in ecr.call_log)["THROTTLED"] == 40
    assert {operation for operation, *_ in ecr.call_log} == {LIST, READ, "GetRegistryPolicy"}


def test_the_picture_in_the_readme_shows_what_the_plan_prints() -> None:
    assert plan_picture.PICTURE.read_text() == plan_picture.picture(), "run `make docs`"


class TestWhoIsDeniedToday:
    ACCOUNT = GRANT | {"Sid": "Partner", "Principal": {"AWS": "arn:aws:iam::222222222222:root"}}
    REGISTRY = GRANT | {"Sid": "All", "Resource": "arn:aws:ecr:us-east-1:111122223333:repository/ml/*"}

    @pytest.fixture(autouse=True)
    def repositories(self, ecr: FakeEcr) -> None:
        ecr.create_repository("granted/app", policy=policy(GRANT))
        ecr.create_repository("account/app", policy=policy(self.ACCOUNT))
        ecr.create_repository("other/app", policy=policy(GRANT | {"Sid": "Mine"}))
        ecr.create_repository("vpc/app", policy=policy(self.ACCOUNT | VPC))
        ecr.create_repository("denied/app", policy=policy(self.ACCOUNT, DENY))
        ecr.create_repository("ml/train", "team/app")

    def test_is_shown_of_the_repositories_that_would_change(self, run_plan: Run) -> None:
        output = run_plan()

        assert output.has("6 would change", "1 of these: allow the pull under a condition")
        assert output.has("3 of these: deny the pull now")
        assert "2 of these: already allow the pull, by" in output.words
        assert "a statement for the whole account (1)" in output.words
        assert "another statement for the role (1)" in output.words

    def test_is_named_in_json(self, run_plan: Run) -> None:
        assert run_plan("--json").json["pulls_today"] == {
            "allowed": ["account/app", "other/app"],
            "conditional": ["vpc/app"],
            "denied": ["denied/app", "ml/train", "team/app"],
        }

    def test_considers_the_registry_policy_and_its_scope(self, aws: FakeAws, run_plan: Run) -> None:
        aws.ecr.registry_policy = policy(self.REGISTRY)
        assert "ml/train" in run_plan("--json").json["pulls_today"]["allowed"]
        assert "the registry policy (1)" in run_plan().words
        aws.scope = "V1"
        assert "ml/train" in run_plan("--json").json["pulls_today"]["denied"]
        aws.denied = {"GetAccountSetting"}

        assert "ml/train" in run_plan("--json").json["pulls_today"]["conditional"]

    def test_is_the_worst_of_several_roles(self, run_plan: Run) -> None:
        both = run_plan("--worker-role", f"{ROLE},{OTHER_ROLE}", "--json").json["pulls_today"]

        assert both["denied"] == ["denied/app", "granted/app", "ml/train", "other/app", "team/app"]


class TestModeRemove:
    def test_shows_what_would_be_removed(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT))
        ecr.create_repository("other/app", policy=policy(GRANT | {"Principal": {"AWS": OTHER_ROLE}}))

        output = run_plan("--mode", "remove")

        assert output.code == 2
        assert output.has("Removal plan for the registry of account 111122223333, us-east-1")
        assert output.has("2 repositories", "1 nothing to remove", "1 would change", f"- AllowPull {ROLE}")
        assert output.has("1 of these: with principals that are not configured", f"AllowPull {OTHER_ROLE}")
        assert run_plan(MODE="remove", REMOVE_UNLISTED_ROLES="true").has("2 would change")
        assert ecr.calls[WRITE] == ecr.calls["DeleteRepositoryPolicy"] == 0

    def test_has_the_fields_of_the_report(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(GRANT | {"Principal": {"AWS": [ROLE, OTHER_ROLE]}}))

        document = run_plan("--mode", "remove", "--json").json

        assert document["mode"] == "remove"
        assert document["outcomes"] == {"would_remove": 1}
        assert document["repositories"] == [
            {
                "repository": "team/app",
                "outcome": "would_remove",
                "removed": {"AllowPull": [ROLE]},
                "unlisted": {"AllowPull": [OTHER_ROLE]},
            }
        ]
        assert document["unlisted"] == 1

    def test_does_not_matter_to_denials(self, ecr: FakeEcr, run_plan: Run) -> None:
        ecr.create_repository("team/app", policy=policy(DENY))
        ecr.registry_policy = policy(DENY | {"Resource": "*"})

        assert run_plan("--mode", "remove").code == 0


def test_the_fields_are_those_of_the_functions_report(
    ecr: FakeEcr, run_plan: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    ecr.create_repository("team/app", "ml/train", policy=policy(GRANT | {"Principal": {"AWS": OTHER_ROLE}}))
    ecr.create_repository("denied/app", policy=policy(GRANT, DENY))
    ecr.create_repository(ROLE_CHECK_REPOSITORY)
    report = Function(ecr, (ROLE,)).run(dry_run=True)
    capsys.readouterr()  # the function's log

    document = run_plan("--json").json

    assert {key: document[key] for key in report.keys() - {"repositories"}} == {
        key: report[key] for key in report.keys() - {"repositories"}
    }
    assert sorted(map(str, document["repositories"])) == sorted(map(str, report["repositories"]))


def test_the_counts_that_are_not_indented_add_up(ecr: FakeEcr, run_plan: Run) -> None:
    ecr.create_repository("granted/app", "denied/app", policy=policy(GRANT, DENY))
    ecr.create_repository("team/app", "gone/app", "secret/app", "scratch/x")
    ecr.inject_faults(READ, NOT_READABLE, repository="secret/app")
    gone = EcrError("RepositoryNotFoundException", "gone")
    ecr.inject_faults(READ, gone, repository="gone/app")

    lines = run_plan("--repositories", "*,!scratch/*").out.partition("\n\n")[2].partition("\n\n")[0]

    counts = [(int(line.split()[0]), "of these" in line) for line in lines.splitlines()]
    assert counts[0][0] == 6
    assert sum(number for number, indented in counts[1:] if not indented) == 6


def test_a_role_is_not_known_to_exist(ecr: FakeEcr, run_plan: Run) -> None:
    ecr.create_repository("team/app")

    assert "Not checked: whether the roles exist." in run_plan().words

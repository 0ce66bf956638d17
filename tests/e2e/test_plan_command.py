"""Tests `make plan` on the embedded AWS, as a caller who has only the three documented permissions."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scripts.plan_client import READS

from devstack import data_plane
from devstack.aws import ACCOUNT, REGION, Credentials, clean_environment
from devstack.host import PROJECT
from tests.e2e.conftest import ALLOW_PULL, FOREIGN, Stack

USER = "plan-reader"


@pytest.fixture(scope="module", autouse=True)
def no_rules(stack: Stack) -> Iterator[None]:
    """Let the function reconcile nothing, also after a late event of the test before."""
    with stack.only_rules():
        yield


@pytest.fixture(scope="module")
def reader(stack: Stack) -> Iterator[Credentials]:
    """Return the credentials of a user who may only call the three reads."""
    iam = stack.aws.iam()
    iam.create_user(UserName=USER)
    allow(stack, *(f"ecr:{name}" for name in READS))
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    yield Credentials(key["AccessKeyId"], key["SecretAccessKey"])
    iam.delete_access_key(UserName=USER, AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName=USER, PolicyName="Plan")
    iam.delete_user(UserName=USER)


def allow(stack: Stack, *actions: str) -> None:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    stack.aws.iam().put_user_policy(UserName=USER, PolicyName="Plan", PolicyDocument=document)


def plan(
    stack: Stack, reader: Credentials, *command: str, repositories: str
) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {
        "AWS_ENDPOINT_URL": stack.aws.endpoint,
        "AWS_ACCESS_KEY_ID": reader.access_key_id,
        "AWS_SECRET_ACCESS_KEY": reader.secret_access_key,
        "AWS_REGION": REGION,
        "WORKER_ROLE_ARNS": data_plane.ROLE_ARN,
        "REPOSITORIES": repositories,
    }
    return subprocess.run(  # noqa: S603 - the plan
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )


@contextmanager
def planned_repositories(stack: Stack) -> Iterator[None]:
    stack.create_repository("plan/granted", ALLOW_PULL)
    stack.create_repository("plan/foreign", FOREIGN)
    stack.create_repository("plan/new")
    try:
        yield
    finally:
        for name in ("granted", "foreign", "new"):
            stack.registry.delete_repository(repositoryName=f"plan/{name}")


def test_make_plan_shows_what_would_change_and_writes_nothing(stack: Stack, reader: Credentials) -> None:
    role = f"WORKER_ROLE_ARNS={data_plane.ROLE_ARN}"
    with planned_repositories(stack):
        completed = plan(stack, reader, "make", "plan", role, repositories="plan/*")

        assert stack.statements("plan/new") == []
        assert stack.statements("plan/foreign") == [FOREIGN]

    assert completed.returncode == 2, completed.stderr
    assert f"account {ACCOUNT}, {REGION}" in completed.stdout
    assert f"+ AllowPull  {data_plane.ROLE_ARN}" in completed.stdout
    assert "plan/foreign, plan/new" in completed.stdout
    assert "2 repositories would change. Nothing was written." in completed.stdout


class TestExitCodeOfTheScriptForPipelines:
    @staticmethod
    def run(stack: Stack, reader: Credentials, repositories: str) -> subprocess.CompletedProcess[str]:
        return plan(stack, reader, "scripts/plan.sh", "--json", repositories=repositories)

    def test_is_0_without_changes(self, stack: Stack, reader: Credentials) -> None:
        with planned_repositories(stack):
            completed = self.run(stack, reader, "plan/granted")

        assert completed.returncode == 0, completed.stderr
        assert json.loads(completed.stdout)["counts"]["granted"] == 1

    def test_is_2_with_changes(self, stack: Stack, reader: Credentials) -> None:
        with planned_repositories(stack):
            completed = self.run(stack, reader, "plan/*")

        assert completed.returncode == 2, completed.stderr
        assert [one["repository"] for one in json.loads(completed.stdout)["would_change"]] == [
            "plan/foreign",
            "plan/new",
        ]

    def test_is_1_with_an_error(self, stack: Stack, reader: Credentials) -> None:
        completed = self.run(stack, reader, "Plan/*")

        assert (completed.returncode, completed.stdout) == (1, "")
        assert "REPOSITORIES is 'Plan/*'" in completed.stderr


@pytest.mark.parametrize("missing", ["DescribeRepositories", "GetRepositoryPolicy"])
def test_each_documented_permission_is_needed_and_the_error_names_it(
    stack: Stack, reader: Credentials, missing: str
) -> None:
    allow(stack, *(f"ecr:{name}" for name in READS if name != missing))
    try:
        with planned_repositories(stack):
            completed = plan(stack, reader, "scripts/plan.sh", repositories="plan/*")
    finally:
        allow(stack, *(f"ecr:{name}" for name in READS))

    assert completed.returncode == 1
    assert f"no permission for {missing}: allow ecr:DescribeRepositories" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_make_prefers_the_profile_and_region_of_its_command_line(stack: Stack, reader: Credentials) -> None:
    variables = (f"WORKER_ROLE_ARNS={data_plane.ROLE_ARN}", "AWS_PROFILE=from-make", "AWS_REGION=eu-west-1")

    printed = plan(stack, reader, "make", "--dry-run", "plan", *variables, repositories="*").stdout

    assert "--profile 'from-make'" in printed
    assert "--region 'eu-west-1'" in printed
    assert "--profile" not in plan(stack, reader, "make", "--dry-run", "plan", repositories="*").stdout

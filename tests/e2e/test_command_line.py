"""Tests `./ecr-allow-pull` on the embedded AWS, with callers who have only the documented permissions."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.aws import Aws
from cli.diagnose import command
from cli.diagnose.check import Verdict
from cli.diagnose.command import gather
from cli.diagnose.diagnosis import diagnose
from cli.permissions import PLAN
from devstack import data_plane
from devstack.aws import ACCOUNT, REGION, clean_environment
from devstack.host import PROJECT
from devstack.target import Credentials
from tests.e2e.conftest import ALLOW_PULL, FOREIGN, Stack

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

USER = "plan-reader"
HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
PROGRAM = PROJECT / "ecr-allow-pull"


@pytest.fixture(scope="module", autouse=True)
def no_rules(stack: Stack) -> Iterator[None]:
    """Let the function reconcile nothing, also after a late event of the test before."""
    with stack.only_rules():
        yield


@pytest.fixture(scope="module")
def reader(stack: Stack) -> Iterator[Credentials]:
    """Return the credentials of a user who may only call the three reads of a plan."""
    iam = stack.aws.iam()
    iam.create_user(UserName=USER)
    allow(stack, *PLAN)
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    yield Credentials(key["AccessKeyId"], key["SecretAccessKey"])
    iam.delete_access_key(UserName=USER, AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName=USER, PolicyName="Plan")
    iam.delete_user(UserName=USER)


def allow(stack: Stack, *actions: str) -> None:
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    stack.aws.iam().put_user_policy(UserName=USER, PolicyName="Plan", PolicyDocument=document(statement))


def document(*statements: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def run(
    stack: Stack, credentials: Credentials, *arguments: str, folder: str = "/", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the program
        [PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=clean_environment() | {
            "AWS_ENDPOINT_URL": str(stack.aws.endpoint),
            "AWS_ACCESS_KEY_ID": credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
        } | environment,
    )  # fmt: skip


def plan(
    stack: Stack, reader: Credentials, repositories: str, *options: str
) -> subprocess.CompletedProcess[str]:
    role = ("--worker-role", data_plane.ROLE_ARN)
    scope = ("--repositories", repositories, "--region", REGION)
    return run(stack, reader, "plan", *role, *scope, *options)


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


def test_the_plan_shows_what_would_change_and_writes_nothing(stack: Stack, reader: Credentials) -> None:
    with planned_repositories(stack):
        completed = plan(stack, reader, "plan/*")

        assert stack.statements("plan/new") == []
        assert stack.statements("plan/foreign") == [FOREIGN]

    assert completed.returncode == 2, completed.stderr
    assert completed.stderr == ""
    assert f"account {ACCOUNT}, {REGION}" in completed.stdout
    assert f"+ AllowPull  {data_plane.ROLE_ARN}" in completed.stdout
    assert "plan/foreign, plan/new" in completed.stdout
    assert "no permission cloudtrail:DescribeTrails" in completed.stdout
    assert "2 repositories would change. Nothing was written." in completed.stdout


class TestExitCodeOfThePlan:
    def test_is_0_without_changes(self, stack: Stack, reader: Credentials) -> None:
        with planned_repositories(stack):
            completed = plan(stack, reader, "plan/granted", "--json")

        assert completed.returncode == 0, completed.stderr
        assert json.loads(completed.stdout)["outcomes"] == {"unchanged": 1}

    def test_is_1_with_an_error(self, stack: Stack, reader: Credentials) -> None:
        completed = plan(stack, reader, "Plan/*", "--json")

        assert (completed.returncode, completed.stdout) == (1, "")
        assert "--repositories is 'Plan/*'" in completed.stderr

    @pytest.mark.parametrize("missing", ["ecr:DescribeRepositories", "ecr:GetRepositoryPolicy"])
    def test_is_1_without_a_documented_permission_and_the_error_names_it(
        self, stack: Stack, reader: Credentials, missing: str
    ) -> None:
        allow(stack, *(name for name in PLAN if name != missing))
        try:
            with planned_repositories(stack):
                completed = plan(stack, reader, "plan/*")
        finally:
            allow(stack, *PLAN)

        assert completed.returncode == 1
        assert f"no permission for {missing.removeprefix('ecr:')}: allow {missing}" in (
            completed.stderr.replace("allow ecr:DescribeRepositories, ", f"allow {missing}, ")
        )
        assert "Traceback" not in completed.stderr


class TestProgram:
    def test_runs_from_any_directory_and_ignores_its_modules(self, stack: Stack, tmp_path: Path) -> None:
        for name in ("click", "cli", "json", "handler"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
        link = tmp_path / "pulls"
        link.symlink_to(PROGRAM)

        completed = run(stack, Credentials("x"), "--help", folder=str(tmp_path))
        linked = subprocess.run([link, "plan", "--help"], capture_output=True, text=True, check=False)  # noqa: S603

        assert completed.returncode == linked.returncode == 0, completed.stderr
        assert "diagnose" in completed.stdout
        assert "--worker-role" in linked.stdout

    def test_without_make_says_what_to_install(self, stack: Stack, tmp_path: Path) -> None:
        for tool in ("readlink", "dirname", "sh"):
            (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")

        completed = run(stack, Credentials("x"), "plan", PATH=str(tmp_path))

        assert completed.returncode == 1
        assert completed.stderr == (
            "✗ make was not found: install it, for example with your system's package manager.\n"
        )


# Diagnose: random policies on both sides, compared with a real pull.

REPOSITORY = "diagnosed/app"
ARN = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{REPOSITORY}"
PULL = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
TOKEN = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}
ACTIONS = st.sampled_from(
    (PULL, PULL, "ecr:*", "ecr:BatchGet*", "ecr:GetDownloadUrlForLayer", "ecr:PutImage", "ECR:Get*")
)
ACTION_ELEMENTS = st.one_of(
    ACTIONS.map(lambda each: {"Action": each}),
    ACTIONS.map(lambda each: {"Action": each}),
    st.sampled_from(("ecr:PutImage", "ecr:BatchGetImage")).map(lambda each: {"NotAction": each}),
)
CONDITIONS = st.sampled_from(
    (
        *({}, {}, {}),
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
        {"Condition": {"StringEquals": {"aws:SourceVpc": "vpc-1"}}},
    )
)
EFFECTS = st.sampled_from(("Allow", "Allow", "Allow", "Deny"))


def resource_statements(arn: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    account = arn.split(":")[4]
    root = f"arn:aws:iam::{account}:root"
    names = st.sampled_from((arn, arn, root, account, "*", f"{arn}-other"))
    principals = st.one_of(
        st.just("*"), st.lists(names, min_size=1, max_size=2, unique=True).map(lambda each: {"AWS": each})
    )
    statement = st.builds(
        lambda effect, principal, action, condition: (
            {"Effect": effect, "Principal": principal} | action | condition
        ),
        EFFECTS, principals, ACTION_ELEMENTS, CONDITIONS,
    )  # fmt: skip
    return st.lists(statement, max_size=3)


IDENTITY_STATEMENTS = st.lists(
    st.builds(
        lambda effect, action, resource: {"Effect": effect, "Resource": resource} | action,
        EFFECTS,
        ACTION_ELEMENTS,
        st.sampled_from(("*", ARN, ARN.replace("app", "*"), f"{ARN}-other")),
    ),
    max_size=2,
)


@pytest.fixture(scope="module")
def roles(stack: Stack) -> dict[str, "ECRClient"]:
    """Return an ECR client of a role in each account, by its ARN."""
    clients: dict[str, ECRClient] = {}
    for account in (data_plane.DATA_PLANE_ACCOUNT, ACCOUNT):
        owner = Credentials(account)
        trust = document({"Effect": "Allow", "Principal": {"AWS": account}, "Action": "sts:AssumeRole"})
        iam = stack.aws.iam(owner)
        arn = iam.create_role(RoleName="diagnosed", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        iam.create_role(RoleName="diagnosed-other", AssumeRolePolicyDocument=trust)
        session = stack.aws.sts(owner).assume_role(RoleArn=arn, RoleSessionName="node")["Credentials"]
        clients[arn] = stack.aws.ecr(
            Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
        )
    stack.create_repository(REPOSITORY)
    data_plane.push(stack.registry, REPOSITORY)
    return clients


@pytest.fixture(scope="module")
def both_sides(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Configure a profile for each account."""
    configuration = tmp_path_factory.mktemp("aws") / "config"
    profiles = {"registry": ACCOUNT, "data-plane": data_plane.DATA_PLANE_ACCOUNT}
    configuration.write_text(
        "".join(
            f"[profile {name}]\naws_access_key_id={key}\naws_secret_access_key=test\n"
            for name, key in profiles.items()
        )
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_CONFIG_FILE", str(configuration))
        environment.setenv("AWS_ENDPOINT_URL", str(stack.aws.endpoint))
        # To create a client takes longer than all calls of a diagnosis.
        environment.setattr(command, "Aws", cache(Aws))
        for client in ("ecr", "iam"):
            environment.setattr(Aws, client, cache(getattr(Aws, client)))
        yield


def pull_is_allowed(role: "ECRClient") -> bool:
    """Pull as the role, and return whether AWS denied none of the calls."""
    target = {"registryId": ACCOUNT, "repositoryName": REPOSITORY}
    try:
        role.get_authorization_token()
        image = role.batch_get_image(**target, imageIds=[{"imageTag": "v1"}])["images"][0]
        layer = json.loads(image["imageManifest"])["layers"][0]["digest"]
        role.get_download_url_for_layer(**target, layerDigest=layer)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDeniedException":
            raise
        return False
    return True


def set_policies(stack: Stack, arn: str, repository: list[Any], identity: list[Any]) -> None:
    stack.aws.iam(Credentials(arn.split(":")[4])).put_role_policy(
        RoleName="diagnosed", PolicyName="Pull", PolicyDocument=document(*identity)
    )
    if repository:
        stack.set_policy(REPOSITORY, *repository)
    elif stack.statements(REPOSITORY):
        stack.registry.delete_repository_policy(repositoryName=REPOSITORY)


@pytest.mark.usefixtures("both_sides")
def test_the_verdict_is_what_a_real_pull_gets(stack: Stack, roles: dict[str, "ECRClient"]) -> None:
    verdicts: set[Verdict] = set()

    # The same examples in every run, so that they lead to every verdict.
    @settings(max_examples=80, derandomize=True)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        arn = data.draw(st.sampled_from(sorted(roles)))
        repository = data.draw(resource_statements(arn))
        identity = data.draw(IDENTITY_STATEMENTS)
        token = data.draw(st.sampled_from(([TOKEN], [TOKEN], [TOKEN], [])))
        set_policies(stack, arn, repository, [*identity, *token] or [{**TOKEN, "Action": "s3:GetObject"}])
        role_profile = "data-plane" if ACCOUNT not in arn else None

        diagnosis = diagnose(gather(f"{HOST}/{REPOSITORY}:v1", arn, "registry", role_profile, None))

        allowed = pull_is_allowed(roles[arn])
        verdicts.add(diagnosis.verdict)
        if diagnosis.verdict is Verdict.UNDECIDED:
            assert any("Condition" in statement for statement in repository), diagnosis
            assert "condition" in diagnosis.reason
        else:
            assert (diagnosis.verdict is Verdict.ALLOWED) == allowed, diagnosis

    check()
    assert verdicts == {*Verdict}


@pytest.mark.usefixtures("both_sides")
def test_diagnose_prints_the_verdict(stack: Stack, roles: dict[str, "ECRClient"]) -> None:
    arn = next(each for each in roles if ACCOUNT not in each)
    set_policies(stack, arn, [], [{"Effect": "Allow", "Action": PULL, "Resource": "*"}, TOKEN])
    image = f"{HOST}/{REPOSITORY}:v1"
    profiles = ("--profile", "registry", "--role-profile", "data-plane")
    configured = {"AWS_CONFIG_FILE": os.environ["AWS_CONFIG_FILE"]}

    denied = run(stack, Credentials("x"), "diagnose", image, "--role", arn, *profiles, **configured)
    stack.set_policy(REPOSITORY, ALLOW_PULL | {"Principal": {"AWS": arn}})
    allowed = run(stack, Credentials("x"), "diagnose", image, "--role", arn, *profiles, **configured)

    assert denied.returncode == 2, denied.stderr
    assert "✗ Denied: no statement allows ecr:BatchGetImage" in " ".join(denied.stdout.split())
    assert allowed.returncode == 0, allowed.stdout
    assert "✓ Allowed" in allowed.stdout
    assert pull_is_allowed(roles[arn])

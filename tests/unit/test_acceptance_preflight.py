"""Before an acceptance run creates anything, it checks permissions, quotas, the registry and the trail."""

import io
from collections.abc import Callable, Iterator, Mapping

import pytest

from acceptance import permissions
from acceptance.app import main
from cli.permissions import READS
from devstack.fake_aws import FakeAws, Response
from tests.unit.command_line import Output

CALLER = "arn:aws:iam::111122223333:user/reader"
ROLE = "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/Administrator"
SESSION = "arn:aws:sts::111122223333:assumed-role/Administrator/alice@example.com"
TRAIL = {"Name": "audit", "TrailARN": "arn:aws:cloudtrail:us-east-1:111122223333:trail/audit"}
READ_OPERATIONS = {name for names in READS.values() for name in names}

type Run = Callable[..., Output]


def xml(operation: str, content: str) -> Response:
    result = f"<{operation}Result>{content}</{operation}Result>"
    return Response(200, "text/xml", f"<{operation}Response>{result}</{operation}Response>")


def roles(used: int, quota: int) -> Response:
    entries = {"Roles": used, "RolesQuota": quota}
    members = "".join(
        f"<entry><key>{key}</key><value>{each}</value></entry>" for key, each in entries.items()
    )
    return xml("GetAccountSummary", f"<SummaryMap>{members}</SummaryMap>")


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    fake = FakeAws(trails=[TRAIL], roles={CALLER: "AIDAX", ROLE: "AROAX"})
    limit = "<member><Name>StackLimit</Name><Value>2000</Value></member>"
    fake.responses = {
        "DescribeAccountLimits": xml("DescribeAccountLimits", f"<AccountLimits>{limit}</AccountLimits>"),
        "DescribeStacks": xml("DescribeStacks", "<Stacks/>"),
        "GetAccountSummary": roles(10, 1000),
    }
    with fake.serving():
        yield fake


@pytest.fixture
def run(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command. It asks before it creates anything, and has no answer, which stops it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "111122223333")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def command(*arguments: str) -> Output:
        code = main(arguments)
        captured = capsys.readouterr()
        return Output(code, captured.out, " ".join(captured.err.split()))

    return command


@pytest.fixture(autouse=True)
def nothing_is_created(aws: FakeAws) -> Iterator[None]:
    yield
    assert {operation for _, operation in aws.calls} <= READ_OPERATIONS | aws.responses.keys()


def deny(*denied: str) -> Callable[[str, str], Mapping[str, str]]:
    return lambda action, _: {"EvalDecision": "implicitDeny" if action in denied else "allowed"}


def test_an_account_that_can_run_it_is_asked_with_the_cost_and_the_command_of_the_cleanup(run: Run) -> None:
    output = run()

    assert "in all: 6 stacks for one hour" in output.words
    assert "$0.09" in output.words
    assert "make acceptance CLEANUP=ecr-allow-pull-acceptance-" in output.words
    assert output.words.index("CLEANUP=") < output.words.index("Create these resources")
    assert output.err == "✗ Stopped. Nothing was created."


class TestPermissions:
    def test_that_are_missing_are_named_with_the_step_that_needs_them(self, aws: FakeAws, run: Run) -> None:
        aws.simulate = deny("iam:CreateRole", "ecr:PutImage")

        output = run("--yes")

        assert output.code == 1
        assert "Not allowed: iam:CreateRole, to create the roles." in output.err
        assert "Not allowed: ecr:PutImage, to create and change repositories." in output.err
        assert output.err.count("Not allowed") == 2
        assert "Nothing was created." in output.words

    def test_are_simulated_for_the_resources_of_the_run(self, aws: FakeAws, run: Run) -> None:
        asked: dict[str, str] = {}

        def simulate(action: str, resource: str) -> Mapping[str, str]:
            asked.setdefault(action, resource)
            return {"EvalDecision": "allowed"}

        aws.simulate = simulate

        run()

        prefix = asked["s3:CreateBucket"].removeprefix("arn:aws:s3:::")
        assert asked["sqs:CreateQueue"] == f"arn:aws:sqs:us-east-1:111122223333:{prefix}-main"
        assert asked["ecr:GetAuthorizationToken"] == "*"

    def test_of_a_session_are_those_of_its_role_with_the_path(self, aws: FakeAws, run: Run) -> None:
        identity = f"<Arn>{SESSION}</Arn><UserId>AROAX:alice</UserId><Account>111122223333</Account>"
        aws.responses["GetCallerIdentity"] = xml("GetCallerIdentity", identity)
        del aws.roles[CALLER]

        assert "IAM allows every call" in run().words

    def test_of_the_root_user_need_no_check(self, aws: FakeAws, run: Run) -> None:
        identity = "<Arn>arn:aws:iam::111122223333:root</Arn><UserId>111122223333</UserId>"
        aws.responses["GetCallerIdentity"] = xml("GetCallerIdentity", identity)
        aws.simulate = deny("iam:CreateRole")

        assert "IAM allows every call" in run().words

    def test_that_cannot_be_simulated_are_an_error_that_names_the_permission(
        self, aws: FakeAws, run: Run
    ) -> None:
        aws.denied = {"SimulatePrincipalPolicy"}

        output = run("--yes")

        assert output.code == 1
        assert "The caller's permissions can't be checked" in output.err
        assert "iam:SimulatePrincipalPolicy, or add SKIP_PERMISSION_CHECK=1" in output.err

    def test_are_not_checked_on_request(self, aws: FakeAws, run: Run) -> None:
        aws.denied = {"SimulatePrincipalPolicy"}

        output = run("--skip-permission-check")

        assert "The permissions were not checked." in output.words
        assert "Create these resources" in output.words

    def test_allow_what_the_cleanup_needs(self) -> None:
        actions = {action for step in permissions.STEPS for action in step.actions.split()}

        assert actions >= {
            "cloudformation:DeleteStack", "ecr:DeleteRepository", "events:DeleteRule", "events:RemoveTargets",
            "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "lambda:DeleteFunction",
            "logs:DeleteLogGroup", "s3:DeleteBucket", "s3:DeleteObjectVersion", "scheduler:DeleteSchedule",
            "sns:DeleteTopic", "sqs:DeleteQueue",
        }  # fmt: skip


class TestALargeRegistry:
    @pytest.fixture(autouse=True)
    def repositories(self, aws: FakeAws) -> None:
        for number in range(301):
            aws.ecr.create_repository(f"app-{number}")

    def test_is_refused(self, run: Run) -> None:
        output = run("--yes")

        assert output.code == 1
        assert "more than 300 repositories" in output.err
        assert "LARGE_REGISTRY=1" in output.err

    def test_is_accepted_on_request(self, run: Run) -> None:
        assert "Create these resources" in run("--large-registry").words

    def test_is_one_of_301_repositories(self, aws: FakeAws, run: Run) -> None:
        aws.ecr.policies.pop("app-0")

        assert "Create these resources" in run().words


class TestTheTrail:
    def test_is_named(self, run: Run) -> None:
        assert "The trail audit logs write management events in us-east-1" in run().words

    def test_that_is_missing_skips_promises_and_the_run_says_which(self, aws: FakeAws, run: Run) -> None:
        aws.trails = []

        assert "Skipped without a trail: the promises on new repositories and policy changes" in run().words


class TestAQuota:
    def test_without_space_is_an_error(self, aws: FakeAws, run: Run) -> None:
        aws.responses["GetAccountSummary"] = roles(990, 1000)

        output = run("--yes")

        assert output.code == 1
        assert "The quota of IAM roles has space for 10: the run needs 30." in output.err

    def test_that_cannot_be_read_is_a_note(self, aws: FakeAws, run: Run) -> None:
        error = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
        aws.responses["DescribeAccountLimits"] = Response(403, "text/xml", error)

        assert "The quota of CloudFormation stacks was not checked" in run().words


def test_without_a_region_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")

    output = run("--yes")

    assert output.code == 1
    assert "set AWS_REGION" in output.err

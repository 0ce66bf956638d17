"""Wrong input and broken environments: one sentence on standard error, exit code 1, and nothing written."""

import json
from collections.abc import Callable, Iterator

import pytest

from cli.app import main
from cli.console import print_warning
from devstack.fake_aws import FakeAws, Response
from devstack.fake_ecr import WRITE
from devstack.host import free_port
from tests.unit.command_line import (
    DATA_PLANE,
    GRANT,
    HOST,
    IMAGE,
    PLAN,
    REGISTRY,
    ROLE,
    Run,
    assert_one_sentence,
    policy,
)

DIAGNOSE = ("diagnose", IMAGE, "--role", ROLE, "--profile", "registry")
HTML = Response(200, "text/html", "<html><body>Please log in to the network</body></html>")
BAD_GATEWAY = Response(502, "text/html", "<html><h1>502 Bad Gateway</h1></html>")
FORBIDDEN = Response(403, "text/html", "<html><h1>Blocked by policy</h1></html>")
TRUNCATED = Response(200, "application/x-amz-json-1.1", '{"repositories": [{"reposi')
TRUNCATED_XML = Response(200, "text/xml", "<GetCallerIdentityResponse><GetCallerId")
EXPIRED_JSON = Response(
    400, "application/x-amz-json-1.1", '{"__type": "ExpiredTokenException", "message": "expired"}'
)
EXPIRED_XML = Response(
    403,
    "text/xml",
    "<ErrorResponse><Error><Code>ExpiredToken</Code><Message>expired</Message></Error></ErrorResponse>",
)


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    aws = FakeAws(roles={ROLE: "AROAEXAMPLEEXISTING1"})
    aws.ecr.create_role(ROLE)
    aws.ecr.create_repository("team/app", policy=policy(GRANT))
    aws.images["team/app", "v1"] = "ACTIVE"
    yield aws
    assert aws.ecr.calls[WRITE] == 0


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.ecr.retry._FIRST_DELAY", 0.001)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.001)


COMMANDS = pytest.mark.parametrize("command", [PLAN, DIAGNOSE[:4]], ids=["plan", "diagnose"])


class TestCredentials:
    @COMMANDS
    @pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_that_are_missing(self, run: Run, command: tuple[str, ...], missing: str) -> None:
        output = run(*command, **{missing: None})

        assert_one_sentence(output, "No AWS credentials were found: add --profile")

    def test_that_are_expired(self, aws: FakeAws, run: Run) -> None:
        aws.responses = {"DescribeRepositories": EXPIRED_JSON}
        assert_one_sentence(run(*PLAN), "The AWS credentials have expired: log in again")
        assert_one_sentence(run(*DIAGNOSE), "The AWS credentials have expired: log in again")
        aws.responses = {"GetCallerIdentity": EXPIRED_XML}

        assert_one_sentence(run(*DIAGNOSE), "The AWS credentials have expired: log in again")

    @COMMANDS
    def test_of_a_profile_that_does_not_exist(self, run: Run, command: tuple[str, ...]) -> None:
        output = run(*command, "--profile", "nope")

        assert_one_sentence(output, "The config profile (nope) could not be found: check --profile")

    def test_of_a_role_profile_that_does_not_exist(self, run: Run) -> None:
        output = run(*DIAGNOSE, "--role-profile", "nope")

        assert_one_sentence(output, "The config profile (nope) could not be found")

    def test_of_another_account_than_the_images(self, run: Run) -> None:
        output = run(*DIAGNOSE[:4], "--profile", "data-plane")

        assert_one_sentence(
            output, f"for account {DATA_PLANE}, and the image is in the registry of account 1111"
        )

    def test_of_another_account_than_the_roles(self, run: Run) -> None:
        output = run(*DIAGNOSE, "--role-profile", "registry")

        assert_one_sentence(
            output, f"--role-profile are for account {REGISTRY}, and the role is in account 2222"
        )

    def test_without_any_permission_are_undecided(self, aws: FakeAws, run: Run) -> None:
        aws.denied = {"DescribeRepositories", "DescribeImages", "GetRepositoryPolicy", "GetRegistryPolicy"}

        output = run(*DIAGNOSE)

        assert output.code == 3
        assert "? Undecided: whether team/app exists is unknown: the credentials have no permission" in (
            output.words
        )


class TestRegion:
    def test_that_is_missing(self, run: Run) -> None:
        sentence = "No AWS region is set: add --region, for example --region us-east-1."
        assert_one_sentence(run(*PLAN, AWS_REGION=None), sentence)
        assert_one_sentence(run("diagnose", "team/app", "--role", ROLE, AWS_REGION=None), sentence)

    def test_is_not_needed_for_an_address_that_has_it(self, run: Run) -> None:
        assert run(*DIAGNOSE, "--role-profile", "data-plane", AWS_REGION=None).code == 0

    def test_of_another_partition_than_the_role(self, run: Run) -> None:
        role = ROLE.replace("arn:aws:", "arn:aws-cn:")

        for command in (("plan", "--worker-role", role), ("diagnose", "team/app", "--role", role)):
            assert_one_sentence(
                run(*command), "is a role of the partition aws-cn, and us-east-1 is in aws: a role of another"
            )


class TestImage:
    @pytest.mark.parametrize(
        ("image", "sentence"),
        [
            ("docker.io/library/alpine:3", "docker.io is not an ECR registry"),
            ("localhost:5000/team/app", "localhost:5000 is not an ECR registry"),
            ("public.ecr.aws/docker/library/alpine", "public.ecr.aws is ECR Public: its images need no perm"),
            ("123.dkr.ecr.us-east-1.amazonaws.com/x", "is not the address of an ECR registry"),
            (f"https://{HOST}/team/app:v1", f"has a scheme: use '{HOST}/team/app:v1'"),
            (f"{HOST}/Team/App:v1", "'Team/App' is not a name that an ECR repository can have"),
            (f"{HOST}/", "is not a name that an ECR repository can have"),
            ("", "is not a name that an ECR repository can have"),
            (f"{HOST}/team/app@sha256:12", "'sha256:12' is not a digest"),
            (f"{HOST}/team/app:v 1", "'v 1' is not a tag"),
        ],
    )
    def test_that_is_no_address_in_ecr(self, run: Run, image: str, sentence: str) -> None:
        assert_one_sentence(run("diagnose", image, "--role", ROLE), sentence)


class TestRole:
    @pytest.mark.parametrize(
        ("role", "sentence"),
        [
            ("worker", "is only a name; use the role's full ARN, arn:aws:iam::ACCOUNT:role/worker"),
            (
                f"arn:aws:sts::{DATA_PLANE}:assumed-role/w/i-1",
                "is a session of a role, not the role; use arn",
            ),
            (DATA_PLANE, "is a whole account"),
            ("*", "is a wildcard"),
        ],
    )
    def test_that_is_no_role(self, run: Run, role: str, sentence: str) -> None:
        assert_one_sentence(run(*DIAGNOSE[:2], "--role", role), f"--role is {role!r}, which", sentence)
        assert_one_sentence(run("plan", "--worker-role", role), f"--worker-role is {role!r}:", sentence)


class TestOptions:
    def test_that_are_misspelled_are_named_with_the_right_one(self, run: Run) -> None:
        assert_one_sentence(run("plan", "--worker-roles", ROLE), "--worker-role'", "plan --help")
        assert_one_sentence(run(*PLAN, "--repository", "x"), "--repositories", "plan --help")
        assert_one_sentence(run("diagnose", "x", "--roles", ROLE), "--role", "diagnose --help")
        assert_one_sentence(run("plna"), "No such command 'plna'", "plan")

    @pytest.mark.parametrize(
        ("word", "option"),
        [
            ("WorkerRoleArns=x", "--worker-role"),
            ("WORKER_ROLE_ARNS=x", "--worker-role"),
            ("Repositories=*", "--repositories"),
            ("Mode=remove", "--mode"),
        ],
    )
    def test_that_are_spelled_as_for_sam_are_named_with_the_right_one(
        self, run: Run, word: str, option: str
    ) -> None:
        assert_one_sentence(run("plan", word), f"Unexpected argument {word!r}: use {option}.")

    def test_that_are_missing(self, run: Run) -> None:
        assert_one_sentence(run("diagnose"), "Missing argument 'IMAGE'")
        assert_one_sentence(run("diagnose", "team/app"), "Missing option '--role'")
        assert_one_sentence(run("plan"), "No worker role is given: add --worker-role with the ARN")

    def test_with_a_wrong_value(self, run: Run) -> None:
        assert_one_sentence(run(*PLAN, "--mode", "delete"), "'delete' is not one of", "'remove'")
        assert_one_sentence(run(*PLAN, "--repositories", "Team/*"), "--repositories is 'Team/*'")

    def test_may_be_repeated_or_separated_by_commas(self, run: Run) -> None:
        other = f"{ROLE}-gpu"

        repeated = run("plan", "--worker-role", ROLE, "--worker-role", other, "--json").json
        separated = run("plan", "--worker-role", f"{ROLE},{other}", "--json").json

        assert repeated == separated
        assert repeated["repositories"][0]["added"] == {"AllowPull": [other]}

    def test_help_is_shown_without_a_command(self, run: Run) -> None:
        output = run()

        assert output.code == 1
        assert "diagnose" in output.err
        assert run("--help").code == run("plan", "-h").code == 0


class TestVariables:
    @pytest.mark.parametrize(
        "name", ["WorkerRoleArns", "WORKER_ROLE_ARN", "WORKER_ROLES_ARNS", "worker_role_arns"]
    )
    def test_that_are_misspelled_are_named_with_the_right_one(self, run: Run, name: str) -> None:
        output = run("plan", **{name: ROLE})

        assert output.code == 1
        assert f"! The environment variable {name} is not read: the name is WORKER_ROLE_ARNS" in output.err

    @pytest.mark.parametrize("name", ["REPOSITORY", "MODEL", "ROLE", "CODE", "AWS_ROLE_ARN", "NODES"])
    def test_of_other_programs_are_ignored(self, run: Run, name: str) -> None:
        assert "is not read" not in run(*PLAN, **{name: "x"}).err

    def test_are_the_fallback_of_the_options(self, run: Run) -> None:
        environment = {"WORKER_ROLE_ARNS": f"{ROLE}-gpu", "REPOSITORIES": "nothing/*"}

        assert run("plan", **environment).code == 1
        assert run("plan", "--repositories", "team/*", **environment).code == 2
        assert run(*PLAN, "--repositories", "team/*", **environment).code == 0

    def test_with_a_wrong_value_are_named(self, run: Run) -> None:
        assert_one_sentence(run(*PLAN, MODE="production"), "MODE is 'production'")
        assert_one_sentence(
            run(*PLAN, MODE=None, REMOVE_UNLISTED_ROLES="yes"), "REMOVE_UNLISTED_ROLES is 'yes'"
        )


class TestNetwork:
    @pytest.fixture
    def aws(self, aws: FakeAws) -> Iterator[FakeAws]:
        """The fake AWS over the network."""
        with aws.serving():
            yield aws

    @COMMANDS
    def test_without_an_endpoint(self, run: Run, command: tuple[str, ...]) -> None:
        output = run(*command, AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")

        assert_one_sentence(
            output, "AWS cannot be reached: check the network, the proxy and the region's name"
        )

    @pytest.mark.parametrize(
        "response", [HTML, BAD_GATEWAY, FORBIDDEN, TRUNCATED], ids=lambda one: one.status
    )
    @pytest.mark.parametrize("command", [PLAN, DIAGNOSE], ids=["plan", "diagnose"])
    def test_with_a_proxy_that_answers_instead_of_ecr(
        self, aws: FakeAws, run: Run, command: tuple[str, ...], response: Response
    ) -> None:
        aws.responses = {"DescribeRepositories": response}

        assert_one_sentence(run(*command), "is not from AWS: check the network and whether a proxy")

    @pytest.mark.parametrize("response", [HTML, FORBIDDEN, TRUNCATED], ids=lambda one: one.status)
    def test_with_a_proxy_that_answers_instead_of_a_policy(
        self, aws: FakeAws, run: Run, response: Response
    ) -> None:
        aws.responses = {"GetRepositoryPolicy": response}

        output = run(*PLAN)
        assert output.code == 1
        assert "is not from AWS" in output.err
        assert_one_sentence(run(*DIAGNOSE), "is not from AWS")

    @pytest.mark.parametrize("operation", ["GetCallerIdentity", "GetRole", "SimulatePrincipalPolicy"])
    @pytest.mark.parametrize("response", [HTML, BAD_GATEWAY, TRUNCATED_XML], ids=lambda one: one.content_type)
    def test_with_a_proxy_that_answers_instead_of_iam(
        self, aws: FakeAws, run: Run, operation: str, response: Response
    ) -> None:
        aws.responses = {operation: response}

        assert_one_sentence(run(*DIAGNOSE, "--role-profile", "data-plane"), "is not from AWS")


class TestInterrupt:
    def test_of_a_diagnosis_prints_one_sentence(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C raises the exception in the main thread, which waits for a response."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(FakeAws, "respond", interrupted)

        output = run(*DIAGNOSE)

        assert output.code == 130
        assert output.out == ""
        assert output.err.strip() == "✗ Stopped."


class TestEscaping:
    """What comes from AWS must not command the terminal, nor look like markup."""

    EVIL = "[red]\x1b]0;title\x07\u202e\x9b31m[/]\n✓ Allowed"

    @pytest.fixture
    def evil(self, aws: FakeAws) -> None:
        deny = {"Sid": self.EVIL, "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}
        condition = {"Condition": {f"StringEquals{self.EVIL}": {self.EVIL: "x"}}}
        aws.ecr.policies["team/app"] = policy(GRANT, deny, deny | condition)
        aws.trails = [{"Name": self.EVIL, "TrailARN": "arn:t", "HomeRegion": "us-east-1"}]
        aws.selectors = {"arn:t": {}}

    @pytest.mark.usefixtures("evil")
    @pytest.mark.parametrize("command", [PLAN, DIAGNOSE], ids=["plan", "diagnose"])
    def test_of_names_and_policies(self, run: Run, command: tuple[str, ...]) -> None:
        output = run(*command)

        assert "[red]\\x1b]0;title\\x07\\u202e\\x9b31m[/]\\n✓ Allowed" in output.words
        assert output.out.replace("\n", "").isprintable()

    @pytest.mark.usefixtures("evil")
    def test_of_json(self, run: Run) -> None:
        output = run(*DIAGNOSE, "--json")

        assert json.loads(output.out)["verdict"] == "denied"
        assert output.out.replace("\n", "").isprintable()

    def test_of_errors(self, aws: FakeAws, run: Run) -> None:
        message = json.dumps({"__type": "AccessDeniedException", "message": self.EVIL})
        aws.responses = {"DescribeRepositories": Response(400, "application/x-amz-json-1.1", message)}

        output = run(*PLAN)

        assert_one_sentence(output, "\\x1b]0;title")
        assert output.err.replace("\n", "").isprintable()

    def test_of_warnings(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_warning(self.EVIL)

        printed = capsys.readouterr().err
        assert "[red]\\x1b]0;title" in printed
        assert printed.count("\n") == 1
        assert printed.replace("\n", "").isprintable()


class TestColors:
    @pytest.mark.parametrize("command", [PLAN, DIAGNOSE], ids=["plan", "diagnose"])
    def test_are_not_in_a_pipe(self, run: Run, command: tuple[str, ...]) -> None:
        assert "\x1b" not in run(*command).out

    @pytest.mark.parametrize("command", [PLAN, DIAGNOSE], ids=["plan", "diagnose"])
    def test_are_not_there_with_no_color(self, run: Run, command: tuple[str, ...]) -> None:
        colors = ("\x1b[3", "\x1b[1;3", "\x1b[9")

        colored = run(*command, FORCE_COLOR="1").out
        plain = run(*command, FORCE_COLOR="1", NO_COLOR="1").out

        assert any(color in colored for color in colors)
        assert not any(color in plain for color in colors)


def test_a_bug_is_one_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Callable[..., object]:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("cli.app.settings_from", fail)

    assert main(PLAN) == 1
    assert "✗ Unexpected ZeroDivisionError, a bug of this program: no. Open an issue.\n" in (
        capsys.readouterr().err
    )

"""Runs the command line in process, on a fake AWS."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore import handlers

from cli.app import main
from devstack.fake_aws import IN_PROCESS, FakeAws

REGISTRY, DATA_PLANE = "111122223333", "222222222222"
HOST = f"{REGISTRY}.dkr.ecr.us-east-1.amazonaws.com"
IMAGE = f"{HOST}/team/app:v1"
REPOSITORY_ARN = f"arn:aws:ecr:us-east-1:{REGISTRY}:repository"
ROLE = f"arn:aws:iam::{DATA_PLANE}:role/unionai-acme-flyteworker-node-group"
OTHER_ROLE = f"arn:aws:iam::{DATA_PLANE}:role/unionai-acme-retired"
PLAN = ("plan", "--worker-role", ROLE)
CONFIGURATION = f"""
[profile registry]
aws_access_key_id = {REGISTRY}
aws_secret_access_key = x

[profile data-plane]
aws_access_key_id = {DATA_PLANE}
aws_secret_access_key = x

[profile european]
aws_access_key_id = 333333333333
aws_secret_access_key = x
region = eu-west-1

[profile sso]
sso_session = acme
sso_account_id = {REGISTRY}
sso_role_name = Reader

[sso-session acme]
sso_start_url = https://acme.awsapps.com/start
sso_region = us-east-1

[profile old-sso]
sso_start_url = https://acme.awsapps.com/start
sso_region = us-east-1
sso_account_id = {REGISTRY}
sso_role_name = Reader
"""
GRANT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": ROLE},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}
DENY = {"Sid": "Quarantine", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}
VPC = {"Condition": {"StringNotEquals": {"aws:SourceVpc": "vpc-1"}}}


def policy(*statements: object) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


@dataclass
class Output:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """The output with single spaces, so that folded lines do not matter."""
        return " ".join(self.out.split())

    def has(self, *lines: str) -> bool:
        """Return whether each line was printed, whatever the spaces between its words are."""
        printed = [" ".join(line.split()) for line in self.out.splitlines()]
        return all(line in printed for line in lines)


type Run = Callable[..., Output]


def runner(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> Run:
    """Return a function that runs a command with changes of the environment; None deletes a variable.

    The fake AWS answers over the network while it is serving, else in process.
    """
    every_session = [*handlers.BUILTIN_HANDLERS, ("before-send", aws.before_send)]
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", every_session)
    configuration = folder / "config"
    configuration.write_text(CONFIGURATION)

    def run(*arguments: str, **environment: str | None) -> Output:
        defaults = {
            "AWS_CONFIG_FILE": str(configuration),
            "AWS_ENDPOINT_URL": aws.url or IN_PROCESS,
            "AWS_ACCESS_KEY_ID": REGISTRY,
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
        }
        for name, value in (defaults | environment).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        code = main(arguments)
        return Output(code, *capsys.readouterr())

    return run


def assert_one_sentence(output: Output, *sentences: str, code: int = 1) -> None:
    """Check that only one sentence was printed, on standard error."""
    assert output.code == code, output
    assert output.out == ""
    for sentence in sentences:
        assert sentence in output.err
    assert output.err.startswith("✗ ")
    assert output.err.count("\n") == 1
    assert output.err.rstrip().endswith("."), output.err

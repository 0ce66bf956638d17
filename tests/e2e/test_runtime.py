"""Runs the built function under AWS's Lambda runtime interface emulator, without Docker."""

import json
import platform
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devstack import lambda_runtime
from devstack.aws import clean_environment
from devstack.fake_ecr import READ, FakeEcr, Fault
from devstack.host import PROJECT
from tests.e2e.conftest import Stack
from tests.environment import REQUIRED

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
PYTHON = PROJECT / ".tools/emulator/bin/python"
pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="AWS's runtime interface emulator needs Linux"
)


@dataclass
class RunningFunction:
    """A running function: its invoke URL and its log file."""

    url: str
    log_file: Path

    def invoke(self, event: object) -> Any:  # noqa: ANN401 - JSON
        request = urllib.request.Request(self.url, json.dumps(event).encode())  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - loopback
            body = response.read().decode()
        try:
            return json.loads(body)
        except ValueError:
            return body

    def log(self) -> str:
        return self.log_file.read_text()


@pytest.fixture(scope="session")
def built(stack: Stack) -> Path:
    """Return the deployed stack's build output."""
    return stack.aws.folder / "build/Function"


@contextmanager
def running(
    built: Path, folder: Path, ecr: FakeEcr, timeout: int = 30, **settings: str
) -> Iterator[RunningFunction]:
    environment = clean_environment() | {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": ecr.url,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
        "PYTHONDONTWRITEBYTECODE": "1",  # as on Lambda, whose package is read-only
        "POWERTOOLS_SERVICE_NAME": "ecr-allow-pull",
        **REQUIRED,
        "WORKER_ROLE_ARNS": ROLE,
    }
    log_file = folder / "log"
    with lambda_runtime.running(
        PYTHON, "handler.app.lambda_handler", built, environment | settings, log_file
    ) as port:
        yield RunningFunction(f"http://127.0.0.1:{port}{lambda_runtime.INVOCATIONS}", log_file)


@pytest.fixture
def ecr() -> Iterator[FakeEcr]:
    with FakeEcr().serving() as ecr:
        ecr.create_role(ROLE)
        ecr.create_repository("team/app", "ml/train", REQUIRED["ROLE_CHECK_REPOSITORY"])
        yield ecr


def test_cold_and_warm_invocations_reconcile_the_requested_repositories(
    built: Path,
    tmp_path: Path,
    ecr: FakeEcr,
    saved_event: Any,  # noqa: ANN401 - a fixture
) -> None:
    with running(built, tmp_path, ecr) as function:
        cold = function.invoke(saved_event("created-by-api"))
        warm = function.invoke(saved_event("rerun-all"))
        log = function.log()

    assert cold["outcomes"] == {"attached": 1}
    assert warm["outcomes"] == {"attached": 1, "unchanged": 1}
    assert '"cold_start":true' in log
    assert '"cold_start":false' in log
    assert f'"correlation_id":"{saved_event("created-by-api")["id"]}"' in log


def test_invalid_payload_is_a_function_error_and_the_function_keeps_running(
    built: Path, tmp_path: Path, ecr: FakeEcr
) -> None:
    with running(built, tmp_path, ecr) as function:
        invalid = function.invoke({"repository": "team/app"})
        valid = function.invoke({"repositories": ["team/app"]})

    assert invalid["errorType"] == "InvalidEvent"
    assert "must look like" in invalid["errorMessage"]
    assert valid["outcomes"] == {"attached": 1}


def test_failed_reconcile_is_a_function_error(built: Path, tmp_path: Path, ecr: FakeEcr) -> None:
    ecr.delete_role(ROLE)
    with running(built, tmp_path, ecr) as function:
        response = function.invoke({"repositories": ["team/app"]})

    assert response["errorType"] == "RepositoriesFailed"
    assert ROLE in response["errorMessage"]


def test_invalid_setting_is_a_function_error_in_each_invocation(
    built: Path, tmp_path: Path, ecr: FakeEcr
) -> None:
    with running(built, tmp_path, ecr, WORKER_ROLE_ARNS="*") as function:
        cold, warm = (function.invoke({"repositories": ["*"]}) for _ in range(2))

    assert cold["errorType"] == warm["errorType"] == "InvalidSetting"
    assert cold["errorMessage"].startswith("WORKER_ROLE_ARNS is '*': ")
    assert cold["stackTrace"] == warm["stackTrace"]


@pytest.mark.parametrize(
    ("level", "messages"),
    [
        ("DEBUG", {"reconciled", "reconcile failed", "pull denied", "report"}),
        ("INFO", {"reconciled", "reconcile failed", "pull denied", "report"}),
        ("WARN", {"reconcile failed", "pull denied"}),
        ("ERROR", {"reconcile failed"}),
    ],
)
def test_log_level_applies_to_the_function_and_never_to_metrics(
    built: Path, tmp_path: Path, ecr: FakeEcr, level: str, messages: set[str]
) -> None:
    """Lambda sets AWS_LAMBDA_LOG_LEVEL and AWS_LAMBDA_LOG_FORMAT from the template's `LoggingConfig`."""
    deny = {"Effect": "Deny", "Principal": "*", "Action": "ecr:*"}
    long = {"Sid": "x" * 10_000, "Effect": "Allow", "Principal": "*", "Action": "ecr:PutImage"}
    ecr.create_repository("denied/app", policy={"Version": "2012-10-17", "Statement": [deny]})
    ecr.create_repository("too-long/app", policy={"Version": "2012-10-17", "Statement": [long]})
    with running(
        built,
        tmp_path,
        ecr,
        POWERTOOLS_LOG_LEVEL=level,
        AWS_LAMBDA_LOG_LEVEL="DEBUG" if level == "DEBUG" else "INFO",
        AWS_LAMBDA_LOG_FORMAT="JSON",
    ) as function:
        function.invoke({"repositories": ["*"]})
        lines = [json.loads(line) for line in function.log().splitlines() if line.startswith("{")]

    ours = [line for line in lines if line.get("service") == "ecr-allow-pull"]
    assert {line["message"] for line in ours if "message" in line} == messages
    assert {"Attached", "Failed", "PullsDenied"} <= set().union(*lines)
    assert {"AllowPull": [ROLE]} in [line.get("principals_added") for line in lines]
    assert not [line for line in lines if "credentials" in line.get("message", "")]
    for secret in ("Signature", "Credential=", "ecr:PutImage", "policyText"):
        assert secret not in function.log()


def test_timeout_is_an_error_that_names_the_cause(built: Path, tmp_path: Path, ecr: FakeEcr) -> None:
    ecr.inject_faults(READ, *[Fault.THROTTLED] * 1_000)
    with running(built, tmp_path, ecr, timeout=3) as function:
        response = function.invoke({"repositories": ["team/app"]})

    assert response["errorType"] == "RepositoriesFailed"
    assert "team/app: no attempt succeeded in time" in response["errorMessage"]
    assert "ThrottlingException" in response["errorMessage"]


def test_bytecode_of_another_python_version_is_ignored(built: Path, tmp_path: Path, ecr: FakeEcr) -> None:
    package = tmp_path / "package"
    shutil.copytree(built, package)
    for bytecode in package.rglob("*.pyc"):
        bytecode.write_bytes(b"\0\0\r\n" + bytecode.read_bytes()[4:])

    with running(package, tmp_path, ecr) as function:
        response = function.invoke({"repositories": ["team/app"]})

    assert response["outcomes"] == {"attached": 1}


def test_package_has_at_most_2_mb(built: Path, tmp_path: Path) -> None:
    package = shutil.make_archive(str(tmp_path / "package"), "zip", built)

    assert Path(package).stat().st_size <= 2_000_000

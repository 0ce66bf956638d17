"""The built function in Lambda's own runtime: AWS's interface emulator and runtime client, no Docker."""

import json
import os
import platform
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local.aws import PROJECT, clean_environment
from tests.e2e.conftest import Stack
from tests.ecr import READ, Ecr, Fault

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
PYTHON = PROJECT / ".tools/emulator/bin/python"
# The interface emulator comes with sam.
EMULATOR = (
    PROJECT / ".tools/sam/lib/python3.13/site-packages/samcli/local/rapid"
    f"/aws-lambda-rie-{'arm64' if platform.machine() in {'arm64', 'aarch64'} else 'x86_64'}"
)

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="AWS's runtime interface emulator runs on Linux alone"
)


@dataclass
class Runtime:
    """A running function: where to invoke it, and where it logs."""

    url: str
    log_file: Path

    def invoke(self, event: object) -> Any:  # noqa: ANN401 - it is JSON
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
    """Give what `sam build` made for the deployed stack."""
    return stack.aws.folder / "build/Function"


@contextmanager
def running(built: Path, folder: Path, ecr: Ecr, timeout: int = 30, **settings: str) -> Iterator[Runtime]:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    environment = clean_environment() | {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": ecr.url,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
        "PYTHONPATH": str(built),
        "PYTHONDONTWRITEBYTECODE": "1",  # as in Lambda, where the package cannot be written to
        "POWERTOOLS_SERVICE_NAME": "ecr-allow-pull",
        "WORKER_ROLE_ARNS": ROLE,
    }
    # fmt: off
    command = [
        str(EMULATOR), "--log-level", "error", "--runtime-interface-emulator-address", addresses[0],
        "--runtime-api-address", addresses[1],
        str(PYTHON), "-m", "awslambdaric", "handler.app.lambda_handler",
    ]
    # fmt: on
    log_file = folder / "log"
    with (
        log_file.open("w") as log,
        subprocess.Popen(  # noqa: S603 - our own runtime
            command,
            cwd=built,
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_for(addresses[0])
            yield Runtime(f"http://{addresses[0]}/2015-03-31/functions/function/invocations", log_file)
        finally:
            os.killpg(process.pid, 9)


@pytest.fixture
def ecr() -> Iterator[Ecr]:
    with Ecr().serving() as ecr:
        ecr.hire(ROLE)
        ecr.create("team/app", "ml/train")
        yield ecr


def test_a_cold_start_and_what_follows_check_what_they_are_asked_to(
    built: Path,
    tmp_path: Path,
    ecr: Ecr,
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


def test_a_bad_event_is_answered_and_the_function_goes_on(built: Path, tmp_path: Path, ecr: Ecr) -> None:
    with running(built, tmp_path, ecr) as function:
        refused = function.invoke({"repository": "team/app"})
        after = function.invoke({"repositories": ["team/app"]})

    assert "should look like" in refused["error"]
    assert after["outcomes"] == {"attached": 1}


def test_a_failure_is_an_error_of_the_function(built: Path, tmp_path: Path, ecr: Ecr) -> None:
    ecr.dismiss(ROLE)
    with running(built, tmp_path, ecr) as function:
        answer = function.invoke({"repositories": ["team/app"]})

    assert answer["errorType"] == "ChecksFailed"
    assert ROLE in answer["errorMessage"]


def test_a_wrong_setting_is_told_to_each_caller(built: Path, tmp_path: Path, ecr: Ecr) -> None:
    with running(built, tmp_path, ecr, WORKER_ROLE_ARNS="*") as function:
        answer = function.invoke({"repositories": ["*"]})

    assert answer["error"].startswith("WORKER_ROLE_ARNS is '*': ")


def test_a_time_limit_is_met_with_an_error_that_says_what_was_in_the_way(
    built: Path, tmp_path: Path, ecr: Ecr
) -> None:
    ecr.fails(READ, *[Fault.THROTTLED] * 1_000)
    with running(built, tmp_path, ecr, timeout=3) as function:
        answer = function.invoke({"repositories": ["team/app"]})

    assert answer["errorType"] == "OutOfTime"
    assert "ThrottlingException" in answer["errorMessage"]


@pytest.mark.skipif(
    not shutil.which("docker")
    or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0,  # noqa: S607 - the user's
    reason="no Docker daemon: `sam local invoke` cannot run",
)
@pytest.mark.parametrize(
    "event", sorted(path.name for path in (PROJECT / "events").glob("*.json") if path.stem != "env")
)
def test_sam_local_invoke_runs_every_saved_event(stack: Stack, event: str) -> None:
    architecture = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
    template = str(stack.aws.folder / "build/template.yaml")

    # No ECR answers there; what is shown is that the event gets through to it, or is ignored.
    printed = stack.aws.sam(
        "local", "invoke", "--template-file", template, "-e", f"events/{event}", "--env-vars",
        "events/env.json", "--parameter-overrides", f"Architecture={architecture}",
    )  # fmt: skip

    assert "Runtime." not in printed
    assert '"cold_start":true' in printed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the runtime did not start")

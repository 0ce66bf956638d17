"""The built function in Lambda's own runtime: AWS's interface emulator and runtime client, no Docker."""

import json
import platform
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from typing import Any

import pytest

from local import runtime
from local.aws import clean_environment
from local.machine import PROJECT
from tests.e2e.conftest import Stack
from tests.ecr import READ, Ecr, Fault

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
PYTHON = PROJECT / ".tools/emulator/bin/python"
UNCHECKED = (1).to_bytes(
    4, "little"
)  # the flags of bytecode that goes by no time and no checked hash: PEP 552
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
    environment = clean_environment() | {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": ecr.url,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
        "PYTHONDONTWRITEBYTECODE": "1",  # as in Lambda, where the package cannot be written to
        "POWERTOOLS_SERVICE_NAME": "ecr-allow-pull",
        "WORKER_ROLE_ARNS": ROLE,
    }
    log_file = folder / "log"
    with runtime.running(
        PYTHON, "handler.app.lambda_handler", built, environment | settings, log_file
    ) as port:
        yield Runtime(f"http://127.0.0.1:{port}{runtime.INVOCATIONS}", log_file)


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


def test_every_module_ships_with_bytecode_that_is_taken_as_it_is(built: Path) -> None:
    modules = list(built.rglob("*.py"))

    assert len(modules) > 50
    for module in modules:
        bytecode = Path(cache_from_source(module)).read_bytes()
        assert bytecode[:4] == MAGIC_NUMBER
        assert bytecode[4:8] == UNCHECKED


def test_bytecode_of_another_python_is_passed_over(built: Path, tmp_path: Path, ecr: Ecr) -> None:
    package = tmp_path / "package"
    shutil.copytree(built, package)
    for bytecode in package.rglob("*.pyc"):
        bytecode.write_bytes(b"\0\0\r\n" + bytecode.read_bytes()[4:])

    with running(package, tmp_path, ecr) as function:
        answer = function.invoke({"repositories": ["team/app"]})

    assert answer["outcomes"] == {"attached": 1}


def test_the_package_is_small_and_holds_no_package_that_is_never_imported(built: Path) -> None:
    imports = "import sys, handler.app, handler.handover; print(*sys.modules)"
    environment = clean_environment() | {"PYTHONPATH": str(built), "AWS_DEFAULT_REGION": "us-east-1"}
    loaded = subprocess.run(  # noqa: S603 - our own function
        [PYTHON, "-c", imports], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()

    shipped = {".".join(init.relative_to(built).parts[:-1]) for init in built.rglob("__init__.py")}
    assert shipped <= set(loaded)
    assert sum(file.stat().st_size for file in built.rglob("*")) < 2_000_000


@pytest.fixture(scope="session")
def architecture() -> str:
    """Give this machine's architecture as Lambda names it, once the image of its runtime is here."""
    machine = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
    image = f"public.ecr.aws/lambda/python:3.13-{machine}"
    if not shutil.which("docker") or not (docker("image", "inspect", image) or docker("pull", image)):
        pytest.skip(
            f"no Docker, or it has no image {image} and cannot fetch it: `sam local invoke` cannot run"
        )
    return machine


def docker(*arguments: str) -> bool:
    return not subprocess.run(["docker", *arguments], capture_output=True, check=False).returncode  # noqa: S603, S607


@pytest.mark.parametrize(
    "event", sorted(path.name for path in (PROJECT / "events").glob("*.json") if path.stem != "env")
)
def test_sam_local_invoke_runs_every_saved_event(stack: Stack, architecture: str, event: str) -> None:
    template = str(stack.aws.folder / "build/template.yaml")

    # No ECR answers there; what is shown is that the event gets through to it, or is ignored.
    printed = stack.aws.sam(
        "local", "invoke", "--skip-pull-image", "--template-file", template, "-e", f"events/{event}",
        "--env-vars", "events/env.json", "--parameter-overrides", f"Architecture={architecture}",
    )  # fmt: skip

    assert "Runtime." not in printed
    assert '"cold_start":true' in printed

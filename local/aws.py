"""An AWS on this machine: start it, deploy the stack to it, call it. The real AWS is out of reach."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import boto3

from local.machine import PROJECT, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient

ACCOUNT = "111122223333"
REGION = "us-east-1"
STACK = "ecr-allow-pull"
# On AWS this takes seconds to minutes. A second lets a client finish that creates a repository and
# sets its policy at once, as IaC tools do, before the function hears of the repository.
CLOUDTRAIL_DELAY = 1.0  # seconds

_SAM = PROJECT / ".tools/sam/bin"
_EMULATOR = PROJECT / ".tools/emulator/bin/python"
_START_SECONDS = 60


class LocalAwsError(Exception):
    """The embedded AWS, or `sam` on it, did not do what it was asked to."""


@dataclass(frozen=True)
class Credentials:
    """Whose calls they are. Without a token: the root user of an account of the embedded AWS."""

    access_key_id: str
    secret_access_key: str = "test"  # noqa: S105 - the embedded AWS knows no other
    session_token: str | None = None


REGISTRY_OWNER = Credentials(ACCOUNT)


@dataclass(frozen=True)
class LocalAws:
    """A running embedded AWS: its address, and a folder for what is made along the way."""

    endpoint: str
    folder: Path

    def build(self) -> None:
        """Build the function from the project's template.

        Raises:
            LocalAwsError: `sam build` failed; holds what it printed.
        """
        self.sam("build", "--build-dir", str(self.folder / "build"))

    def deploy(self, parameters: Mapping[str, str], stack: str = STACK) -> dict[str, str]:
        """Deploy what was built, and give the stack's outputs.

        Raises:
            LocalAwsError: `sam deploy` failed; holds what it printed.
        """
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        template = str(self.folder / "build/template.yaml")
        self.sam(
            "deploy", "--template-file", template, "--stack-name", stack, "--no-confirm-changeset",
            "--config-file", str(PROJECT / "samconfig.toml"), "--parameter-overrides", *overrides,
        )  # fmt: skip
        (described,) = self.cloudformation().describe_stacks(StackName=stack)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}

    def log(self, stack: str = STACK) -> str:
        """Give what the function logged."""
        found = self.logs().filter_log_events(logGroupName=f"/aws/lambda/{stack}")
        return "".join(event["message"].rstrip() + "\n" for event in found["events"])

    def sam(self, *arguments: str) -> str:
        """Run `sam` in the project, against this AWS, and give what it printed.

        Raises:
            LocalAwsError: it failed; holds what it printed.
        """
        environment = clean_environment() | {
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": REGISTRY_OWNER.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "PATH": f"{_SAM}{os.pathsep}{os.environ['PATH']}",
            "SAM_CLI_TELEMETRY": "0",
        }
        command = [str(_SAM / "sam"), *arguments]
        done = subprocess.run(  # noqa: S603 - our own sam with our own arguments
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            raise LocalAwsError(f"sam {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def cloudformation(self) -> CloudFormationClient:
        """Make a client of CloudFormation."""
        return self._session().client("cloudformation", endpoint_url=self.endpoint)

    def ecr(self, credentials: Credentials = REGISTRY_OWNER) -> ECRClient:
        """Make a client of ECR."""
        return self._session(credentials).client("ecr", endpoint_url=self.endpoint)

    def events(self) -> EventBridgeClient:
        """Make a client of EventBridge, which here takes events of AWS's own too."""
        return self._session().client("events", endpoint_url=self.endpoint)

    def iam(self, credentials: Credentials = REGISTRY_OWNER) -> IAMClient:
        """Make a client of IAM."""
        return self._session(credentials).client("iam", endpoint_url=self.endpoint)

    def lambda_(self) -> LambdaClient:
        """Make a client of Lambda."""
        return self._session().client("lambda", endpoint_url=self.endpoint)

    def logs(self) -> CloudWatchLogsClient:
        """Make a client of CloudWatch Logs."""
        return self._session().client("logs", endpoint_url=self.endpoint)

    def scheduler(self) -> EventBridgeSchedulerClient:
        """Make a client of EventBridge Scheduler."""
        return self._session().client("scheduler", endpoint_url=self.endpoint)

    def sqs(self) -> SQSClient:
        """Make a client of SQS."""
        return self._session().client("sqs", endpoint_url=self.endpoint)

    def sts(self, credentials: Credentials) -> STSClient:
        """Make a client of STS."""
        return self._session(credentials).client("sts", endpoint_url=self.endpoint)

    def _session(self, credentials: Credentials = REGISTRY_OWNER) -> boto3.Session:
        return boto3.Session(
            credentials.access_key_id,
            credentials.secret_access_key,
            credentials.session_token,
            region_name=REGION,
        )


@contextmanager
def local_aws() -> Iterator[LocalAws]:
    """Run the embedded AWS for the time of the block, and leave nothing of it behind.

    Raises:
        LocalAwsError: it did not start; holds what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="ecr-allow-pull-") as name:
        folder = Path(name)
        port = free_port()
        environment = clean_environment() | {
            "AUTH": "true",
            "AWS_SECRET_ACCESS_KEY": REGISTRY_OWNER.secret_access_key,
            "BIND_HOST": "127.0.0.1",
            "CLOUDTRAIL_DELAY": str(CLOUDTRAIL_DELAY),
            "GATEWAY_PORT": str(port),
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "1",  # where AWS waits for a minute
            "LOG_LEVEL": "WARNING",
            "TMPDIR": name,
        }
        with (folder / "emulator.log").open("w+") as log, _emulator(environment, log) as process:
            aws = LocalAws(f"http://127.0.0.1:{port}", folder)
            _wait_until_ready(aws, process, log)
            yield aws


def clean_environment() -> dict[str, str]:
    """Give the environment without a trace of a real AWS, so that nothing here can reach one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # Bytecode pays: sam and the emulator start many times.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def _emulator(environment: dict[str, str], log: TextIO) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own: a Ctrl-C is ours to handle, and what it started ends with it.
    with subprocess.Popen(  # noqa: S603 - our own emulator
        [str(_EMULATOR), "-m", "local.emulator"], cwd=PROJECT, env=environment,
        stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait_until_ready(aws: LocalAws, process: subprocess.Popen[bytes], log: TextIO) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{aws.endpoint}/_ministack/health", timeout=1).close()  # noqa: S310
        except OSError:
            time.sleep(0.05)
        else:
            return
    log.seek(0)
    raise LocalAwsError(f"the embedded AWS did not start:\n{log.read()}")

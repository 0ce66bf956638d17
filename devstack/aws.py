"""Starts an embedded AWS on loopback, deploys the stack to it and calls it. Never calls the real AWS."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import boto3

from devstack.host import PROJECT, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
# On AWS, CloudTrail's delay is seconds to minutes. With one second, a client that creates a repository
# and then sets its policy, as IaC tools do, finishes before the function gets the creation event.
CLOUDTRAIL_DELAY = 1.0  # seconds

_SAM = PROJECT / ".tools/sam/bin"
_EMULATOR = PROJECT / ".tools/emulator/bin/python"
_START_TIMEOUT = 60  # seconds
_PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class LocalAwsError(Exception):
    """The embedded AWS did not start, or a `sam` command failed."""


@dataclass(frozen=True)
class Credentials:
    """Credentials for the embedded AWS. An account id as access key means that account's root user."""

    access_key_id: str
    secret_access_key: str = "test"  # noqa: S105 - the embedded AWS accepts only this value
    session_token: str | None = None


REGISTRY_OWNER = Credentials(ACCOUNT)


def _once[**P, T](create: Callable[P, T]) -> Callable[P, T]:
    """Create each client once: that takes longer than most calls."""
    return cast("Callable[P, T]", cache(create))


@dataclass(frozen=True)
class LocalAws:
    """A running embedded AWS: its endpoint, and a temporary folder for build output."""

    endpoint: str
    folder: Path

    def build(self) -> None:
        """Build the function with `sam build`.

        Raises:
            LocalAwsError: `sam build` failed. The message contains its output.
        """
        self.sam("build", "--build-dir", str(self.folder / "build"))

    def deploy(self, parameters: Mapping[str, str], stack: str = STACK) -> dict[str, str]:
        """Deploy the build output with `sam deploy`, and return the stack's outputs.

        Raises:
            LocalAwsError: `sam deploy` failed. The message contains its output.
        """
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        template = str(self.folder / "build/template.yaml")
        self.sam(
            "deploy", "--template-file", template, "--stack-name", stack, "--no-confirm-changeset",
            "--config-file", str(PROJECT / "samconfig.toml"), "--parameter-overrides", *overrides,
        )  # fmt: skip
        (described,) = self.cloudformation().describe_stacks(StackName=stack)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}

    def log(self, stack: str = STACK, *, since: float = 0.0) -> str:
        """Return the function's log since a Unix time in seconds."""
        page = self.logs().filter_log_events(logGroupName=f"/aws/lambda/{stack}", startTime=int(since * 1000))
        return "".join(event["message"].rstrip() + "\n" for event in page["events"])

    def sam(self, *arguments: str) -> str:
        """Run a `sam` command against this AWS in the project's folder, and return its output.

        Raises:
            LocalAwsError: the command failed. The message contains its output.
        """
        environment = clean_environment() | {
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": REGISTRY_OWNER.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "PATH": f"{_SAM}{os.pathsep}{os.environ['PATH']}",
            "SAM_CLI_POLL_DELAY": "0.2",  # seconds; 5 by default
            "SAM_CLI_TELEMETRY": "0",
        }
        command = [str(_SAM / "sam"), *arguments]
        completed = subprocess.run(  # noqa: S603 - the project's SAM CLI with trusted arguments
            command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if completed.returncode:
            raise LocalAwsError(f"sam {' '.join(arguments)} failed:\n{completed.stdout}")
        return completed.stdout

    @_once
    def cloudformation(self) -> CloudFormationClient:
        """Return a CloudFormation client."""
        return self._session().client("cloudformation", endpoint_url=self.endpoint)

    @_once
    def ecr(self, credentials: Credentials = REGISTRY_OWNER) -> ECRClient:
        """Return an ECR client."""
        return self._session(credentials).client("ecr", endpoint_url=self.endpoint)

    @_once
    def events(self) -> EventBridgeClient:
        """Return an EventBridge client. Unlike on AWS, it can put events with an `aws.*` source."""
        return self._session().client("events", endpoint_url=self.endpoint)

    @_once
    def iam(self, credentials: Credentials = REGISTRY_OWNER) -> IAMClient:
        """Return an IAM client."""
        return self._session(credentials).client("iam", endpoint_url=self.endpoint)

    @_once
    def lambda_(self) -> LambdaClient:
        """Return a Lambda client."""
        return self._session().client("lambda", endpoint_url=self.endpoint)

    @_once
    def logs(self) -> CloudWatchLogsClient:
        """Return a CloudWatch Logs client."""
        return self._session().client("logs", endpoint_url=self.endpoint)

    @_once
    def scheduler(self) -> EventBridgeSchedulerClient:
        """Return an EventBridge Scheduler client."""
        return self._session().client("scheduler", endpoint_url=self.endpoint)

    @_once
    def sqs(self) -> SQSClient:
        """Return an SQS client."""
        return self._session().client("sqs", endpoint_url=self.endpoint)

    @_once
    def sts(self, credentials: Credentials) -> STSClient:
        """Return an STS client."""
        return self._session(credentials).client("sts", endpoint_url=self.endpoint)

    def client(self, service: str) -> Any:  # noqa: ANN401 - the types of these clients are not installed
        """Return a client of another service."""
        session: Any = self._session()
        return session.client(service, endpoint_url=self.endpoint)

    def _session(self, credentials: Credentials = REGISTRY_OWNER) -> boto3.Session:
        return boto3.Session(
            credentials.access_key_id,
            credentials.secret_access_key,
            credentials.session_token,
            region_name=REGION,
        )


@contextmanager
def local_aws(
    port: int | None = None, *, cloudtrail_delay: float = CLOUDTRAIL_DELAY, stack_events: bool = False
) -> Iterator[LocalAws]:
    """Run the embedded AWS until the block ends, then remove its processes and files.

    Args:
        port: its loopback port; by default a free one.
        cloudtrail_delay: the seconds between a call and its CloudTrail event.
        stack_events: whether a deployed stack sends an event, as on AWS, which starts a sweep.

    Raises:
        LocalAwsError: the embedded AWS did not start. The message contains its output.
    """
    with tempfile.TemporaryDirectory(prefix="ecr-allow-pull-") as name:
        folder = Path(name)
        port = port or free_port()
        environment = clean_environment() | {
            "AUTH": "true",
            "AWS_SECRET_ACCESS_KEY": REGISTRY_OWNER.secret_access_key,
            "BIND_HOST": "127.0.0.1",
            "CLOUDTRAIL_DELAY": str(cloudtrail_delay),
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_ENABLED": "0",  # its broker listens on all interfaces
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "1",  # a minute on AWS
            "LOG_LEVEL": "WARNING",
            "STACK_EVENTS": str(stack_events).lower(),
            "TMPDIR": name,
        }
        with (folder / "emulator.log").open("w+") as log, _emulator(environment, log) as process:
            aws = LocalAws(f"http://127.0.0.1:{port}", folder)
            _wait_until_ready(aws, process, log)
            yield aws


def clean_environment() -> dict[str, str]:
    """Return the environment without AWS settings, credentials and proxies: no call can leave this machine.

    Only pip, which downloads the function's dependencies, keeps the proxy.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name.upper() not in _PROXIES
    }
    if proxy := next(filter(None, map(os.environ.get, ("https_proxy", "HTTPS_PROXY"))), None):
        kept.setdefault("PIP_PROXY", proxy)
    # sam and the emulator start many times: bytecode makes each start faster.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def _emulator(environment: dict[str, str], log: TextIO) -> Iterator[subprocess.Popen[bytes]]:
    # In its own session, so that Ctrl-C doesn't reach the emulator, and its child processes stop with it.
    with subprocess.Popen(  # noqa: S603 - the project's emulator
        [str(_EMULATOR), "-m", "devstack.emulator"], cwd=PROJECT, env=environment,
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
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{aws.endpoint}/_ministack/health", timeout=1).close()  # noqa: S310
        except OSError:
            time.sleep(0.05)
        else:
            return
    log.seek(0)
    raise LocalAwsError(f"the embedded AWS did not start:\n{log.read()}")

"""Starts an embedded AWS on loopback. Never calls the real AWS."""

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

from devstack.host import PROJECT, free_port
from devstack.target import Aws, Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator


ACCOUNT = "111122223333"
REGION = "us-east-1"
STACK = "ecr-allow-pull"
# On AWS, CloudTrail's delay is seconds to minutes. With one second, a client that creates a repository
# and then sets its policy, as IaC tools do, finishes before the function gets the creation event.
CLOUDTRAIL_DELAY = 1.0  # seconds

_EMULATOR = PROJECT / ".tools/emulator/bin/python"
_START_TIMEOUT = 60  # seconds
_PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class LocalAwsError(Exception):
    """The embedded AWS did not start."""


REGISTRY_OWNER = Credentials(ACCOUNT)


@dataclass(frozen=True)
class LocalAws(Aws):
    """A running embedded AWS on a loopback port."""

    port: int

    @property
    def endpoint(self) -> str:
        """The endpoint of every service."""
        return f"http://127.0.0.1:{self.port}"

    def session(self, credentials: Credentials | None = None) -> boto3.Session:
        """Return a session of the registry's owner, or of other credentials."""
        who = credentials or REGISTRY_OWNER
        return boto3.Session(
            who.access_key_id, who.secret_access_key, who.session_token, region_name=self.region
        )

    def environment(self) -> dict[str, str]:
        """Return the environment for commands that call this AWS as the registry's owner."""
        return clean_environment() | {
            "AWS_ACCESS_KEY_ID": REGISTRY_OWNER.access_key_id,
            "AWS_SECRET_ACCESS_KEY": REGISTRY_OWNER.secret_access_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
        }


def at_port(port: int, folder: Path) -> LocalAws:
    """Return the embedded AWS that listens on a loopback port."""
    return LocalAws(ACCOUNT, REGION, STACK, folder, port)


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
            aws = at_port(port, folder)
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

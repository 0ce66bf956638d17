"""The two targets of the end-to-end tests: the embedded AWS, and a sandbox account on AWS."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import boto3
from botocore.exceptions import ClientError

from devstack import data_plane
from devstack.aws import local_aws
from devstack.target import Aws, Credentials

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

# Set by the acceptance run. The variables of the AWS SDK select the account and the region.
PREFIX = os.environ.get("ACCEPTANCE_PREFIX")  # of everything that the tests create on AWS
# The tests of `make acceptance` itself run it on the embedded AWS.
EMBEDDED = PREFIX is None or "AWS_ENDPOINT_URL" in os.environ
TRAIL = "ACCEPTANCE_TRAIL" in os.environ  # whether CloudTrail's events arrive


@dataclass(frozen=True)
class Target(ABC):
    """Where the stack is deployed, and what differs there."""

    aws: Aws
    settling: float  # seconds until a change of a role, a rule or the function takes effect
    timeout: float  # seconds to wait for an effect

    long_sweep: ClassVar[dict[str, int]]  # the function's configuration in which a sweep takes long

    @property
    @abstractmethod
    def prefix(self) -> str:
        """The prefix of all repositories of the tests, which is the scope of the stack."""

    def deploy(self, parameters: Mapping[str, str], stack: str) -> dict[str, str]:
        """Deploy the build output as a new stack, and return its outputs.

        Raises:
            SamError: `sam deploy` failed. The message contains its output.
            ClientError: the embedded AWS refuses the stack.
        """
        return self.aws.deploy(parameters, stack)

    @abstractmethod
    def create_role(self, name: str) -> str:
        """Create a role without an identity policy, and return its ARN."""

    @abstractmethod
    def delete_role(self, name: str) -> None:
        """Delete a role that `create_role` created."""

    @abstractmethod
    def client(self, role: str) -> "ECRClient":
        """Return the ECR client of a role that `create_role` created."""

    @abstractmethod
    def worker(self) -> tuple[str, "ECRClient"]:
        """Create the worker role, and return its ARN and its ECR client. Without a grant, it cannot pull."""

    @abstractmethod
    def arn(self, role: str) -> str:
        """Return the ARN of a role that `create_role` can create."""


class EmbeddedTarget(Target):
    """The embedded AWS: its data plane is in another account, and changes take effect at once."""

    prefix = ""
    long_sweep: ClassVar = {"Timeout": 10}

    def deploy(self, parameters: Mapping[str, str], stack: str) -> dict[str, str]:
        # Through the API, in a tenth of the time of `sam deploy`, which other tests run.
        s3, cloudformation = self.aws.client("s3"), self.aws.cloudformation()
        s3.create_bucket(Bucket="packages")
        s3.upload_file(str(self.aws.folder / "build/package.zip"), "packages", "package.zip")
        template = (self.aws.folder / "build/template.yaml").read_text()
        assert template.count("CodeUri: Function\n") == 1
        template = template.replace("CodeUri: Function", "CodeUri: s3://packages/package.zip")
        s3.put_object(Bucket="packages", Key="template.yaml", Body=template)
        cloudformation.create_stack(
            StackName=stack,
            TemplateURL=f"{self.aws.endpoint}/packages/template.yaml",
            Parameters=[{"ParameterKey": key, "ParameterValue": each} for key, each in parameters.items()],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
        waiter = cloudformation.get_waiter("stack_create_complete")
        waiter.wait(StackName=stack, WaiterConfig={"Delay": 1})
        return self.aws.outputs(stack)

    def create_role(self, name: str) -> str:
        return data_plane.create_role_alone(self.aws, name)

    def delete_role(self, name: str) -> None:
        data_plane.delete_role_alone(self.aws, name)

    def client(self, role: str) -> "ECRClient":
        return data_plane.assume(self.aws, role)

    def worker(self) -> tuple[str, "ECRClient"]:
        return data_plane.ROLE_ARN, data_plane.create_role(self.aws)

    def arn(self, role: str) -> str:
        return f"arn:aws:iam::{data_plane.DATA_PLANE_ACCOUNT}:role/{role}"


class AwsTarget(Target):
    """AWS. The data plane is in the same account, where the grant alone permits the pull."""

    long_sweep: ClassVar = {"Timeout": 15, "MemorySize": 128}

    @property
    def prefix(self) -> str:
        return f"{self.aws.stack}/"

    def create_role(self, name: str) -> str:
        arn = data_plane.create_role_alone(self.aws, f"{self.aws.stack}-{name}", None, self.aws.account)
        time.sleep(self.settling)
        return arn

    def delete_role(self, name: str) -> None:
        data_plane.delete_role_alone(self.aws, f"{self.aws.stack}-{name}", None)
        time.sleep(self.settling)

    def client(self, role: str) -> "ECRClient":
        return wait_for(lambda: data_plane.assume(self.aws, role, None), self.timeout)

    def worker(self) -> tuple[str, "ECRClient"]:
        arn = self.create_role("worker")
        return arn, self.client(arn)

    def arn(self, role: str) -> str:
        return f"arn:{self.aws.partition}:iam::{self.aws.account}:role/{self.aws.stack}-{role}"


@dataclass(frozen=True)
class RealAws(Aws):
    """AWS with the credentials of the environment. All resources carry the prefix of the run."""

    prefix: str

    def session(self, credentials: Credentials | None = None) -> boto3.Session:
        if credentials is None:
            return boto3.Session(region_name=self.region)
        keys = credentials.access_key_id, credentials.secret_access_key, credentials.session_token
        return boto3.Session(*keys, region_name=self.region)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "AWS_DEFAULT_REGION": self.region, "AWS_REGION": self.region}

    @property
    def endpoint(self) -> str | None:
        return os.environ.get("AWS_ENDPOINT_URL")

    @property
    def deploy_options(self) -> tuple[str, ...]:
        # A bucket of this run, because SAM's own would stay in the account.
        configuration = self.folder / "samconfig.toml"
        configuration.write_text("version = 0.1\n")
        return (
            *("--config-file", str(configuration), "--no-confirm-changeset", "--no-fail-on-empty-changeset"),
            *("--capabilities", "CAPABILITY_IAM", "--s3-bucket", self.prefix, "--s3-prefix", self.stack),
            *("--tags", f"acceptance={self.prefix}"),
        )


@contextmanager
def target(worker: str, *, stack_events: bool = False) -> Iterator[Target]:
    """Start the embedded AWS, or reach AWS with the prefix of the environment and the name of a test process.

    On AWS, a deployed stack always sends events, and `make acceptance` deletes everything at the end.
    """
    if PREFIX is None:
        with local_aws(stack_events=stack_events) as embedded:
            yield EmbeddedTarget(embedded, settling=0, timeout=30)
        return
    session = boto3.Session()
    account = session.client("sts").get_caller_identity()["Account"]
    with TemporaryDirectory() as folder:
        aws = RealAws(account, session.region_name, f"{PREFIX}-{worker}", Path(folder), PREFIX)
        settling, timeout = (0, 30) if EMBEDDED else (15, 300)
        yield AwsTarget(aws, settling, timeout)


def wait_for[T](attempt: Callable[[], T], timeout: float) -> T:
    """Repeat a call that AWS refuses until a change has taken effect.

    Raises:
        ClientError: AWS refuses the call still after the timeout in seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return attempt()
        except ClientError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)

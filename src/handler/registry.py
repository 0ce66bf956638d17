"""The registry: the only room that knows boto3 and the errors of Amazon ECR."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from handler.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_ecr import ECRClient

# Calls that may be under way at once, each with a connection of its own.
SIDE_BY_SIDE = 24

# The largest page that DescribeRepositories gives, from the ECR API reference.
_PAGE_SIZE = 1000
_CONFIG = Config(
    connect_timeout=3,  # seconds
    read_timeout=10,  # seconds
    max_pool_connections=SIDE_BY_SIDE,
    # The SDK would repeat a write with a text read before its back-off, over what others wrote
    # meanwhile. So it tries once, and whoever calls tries again from a new read.
    retries={"total_max_attempts": 1},
)
# ECR names both in its API guide. A 5xx of any code is as temporary.
_THROTTLED = frozenset({"ThrottlingException", "ThrottleException", "TooManyRequestsException"})
# Today's words, and older ones.
_NO_SUCH_PRINCIPAL = ("Principal not found", "Invalid repository policy provided")
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


# At DEBUG, botocore logs every policy and every signature.
logging.getLogger("botocore").setLevel(logging.INFO)


class RegistryError(Exception):
    """A call that ECR refused; the message says which, why, and how to mend it."""


class Unavailable(RegistryError):
    """A call that did not succeed now and may succeed later."""


class Throttled(Unavailable):
    """A call that came too fast after others."""


class RepositoryNotFound(RegistryError):
    """The repository does not exist."""


class PrincipalRefused(RegistryError):
    """A policy names a principal that does not exist. ECR refuses all of it and does not say which."""


class PolicyNotFound(RegistryError):
    """The repository exists and has no policy."""


class Registry:
    """The ECR private registry of the function's own account and region.

    Safe to use from several threads: they share one pace.
    """

    def __init__(self, client: ECRClient, pace: Pace | None = None) -> None:
        """Stand on an ECR client, which must not retry by itself."""
        self._client = client
        self._pace = pace or Pace()

    @classmethod
    def connect(cls) -> Self:
        """Make the client, which takes far longer than a call with it: once in a process."""
        return cls(boto3.client("ecr", config=_CONFIG))

    def page(self, token: str | None = None) -> tuple[list[str], str | None]:
        """List repository names, a page at a time.

        Args:
            token: where to go on, as the page before gave it; None for the first page.

        Returns:
            The page's names, and the token of the next page or None if it was the last.

        Raises:
            RegistryError: ECR refused; Unavailable if it is worth another try.
        """
        self._pace.wait()
        if token is None:
            response = self._call(self._client.describe_repositories, maxResults=_PAGE_SIZE)
        else:
            response = self._call(self._client.describe_repositories, maxResults=_PAGE_SIZE, nextToken=token)
        try:
            return [each["repositoryName"] for each in response["repositories"]], response.get("nextToken")
        except KeyError as error:
            raise Unavailable(f"ECR answered DescribeRepositories without {error}") from None

    def policy_text(self, name: str) -> str | None:
        """Read a repository's policy, or None if it has none.

        Raises:
            RepositoryNotFound: there is no such repository.
            RegistryError: ECR refused; Unavailable if it is worth another try.
        """
        self._pace.wait()
        try:
            return self._call(self._client.get_repository_policy, repositoryName=name)["policyText"]
        except PolicyNotFound:
            return None
        except KeyError as error:
            raise Unavailable(f"ECR answered GetRepositoryPolicy without {error}") from None

    def set_policy_text(self, name: str, text: str) -> None:
        """Replace a repository's policy, whatever it is by now: ECR has no conditional write.

        Raises:
            RepositoryNotFound: there is no such repository.
            PrincipalRefused: the policy names a principal that does not exist.
            RegistryError: ECR refused; Unavailable if it is worth another try, from a new read.
        """
        # To wait here would give others time to write what this write then overwrites.
        self._pace.owe()
        self._call(self._client.set_repository_policy, repositoryName=name, policyText=text)

    def _call[**P, T](self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            answer = operation(*args, **kwargs)
        except ClientError as error:
            translated = _translated(error)
            if isinstance(translated, Throttled):
                self._pace.throttled()
            else:
                self._pace.served()
            raise translated from None
        except (NoConnection, HTTPClientError) as error:
            raise Unavailable(f"ECR did not answer: {error}") from None
        except BotoCoreError as error:
            raise RegistryError(f"ECR could not be called: {error}") from None
        self._pace.served()
        return answer


def _translated(error: ClientError) -> RegistryError:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message") or "no message"
    said = f"ECR refused {error.operation_name}: {code}: {message}"
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "RepositoryNotFoundException":
        return RepositoryNotFound(said)
    if code == "RepositoryPolicyNotFoundException":
        return PolicyNotFound(said)
    if code in _THROTTLED or status == _TOO_MANY_REQUESTS:
        return Throttled(said)
    if status >= _SERVER_ERROR:
        return Unavailable(said)
    if any(words in message for words in _NO_SUCH_PRINCIPAL):
        return PrincipalRefused(said)
    return RegistryError(said)

"""The private registry of Amazon ECR: the only module that knows ECR's API and its errors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.retries.standard import RetryContext, ThrottledRetryableChecker, TransientRetryableChecker

from handler.ecr.rate_limiter import Permit, RateLimiter
from handler.ecr.timeouts import CONNECT_TIMEOUT, READ_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ecr.type_defs import (
        GetRegistryPolicyResponseTypeDef,
        GetRepositoryPolicyResponseTypeDef,
    )

# Calls that may be in flight at once, each with a connection of its own.
MAX_CONCURRENCY = 24

# The largest page of DescribeRepositories, from the ECR API reference.
_PAGE_SIZE = 1000
CLIENT_CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT,
    read_timeout=READ_TIMEOUT,
    max_pool_connections=MAX_CONCURRENCY,
    # The SDK would repeat a write with a text that was read before its backoff, over what others wrote
    # meanwhile. So it tries once, and each new attempt starts with a new read.
    retries={"total_max_attempts": 1},
)
# What the SDK's standard mode would retry, and what ECR's API guide and HTTP add to that.
_is_throttle = ThrottledRetryableChecker().is_retryable
_is_transient = TransientRetryableChecker().is_retryable
_ECR_THROTTLE = "ThrottleException"
_REQUEST_TIMEOUT = 408
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
# The messages for a rejected policy: the second is older, and ECR uses it for other faults too, such as a
# Resource element.
_PRINCIPAL_NOT_FOUND = "Principal not found"
_POLICY_INVALID = "Invalid repository policy provided"


class RegistryError(Exception):
    """A call that ECR refused; the message says which and why."""


class Unavailable(RegistryError):
    """A call that did not succeed now and may succeed later."""


class Throttled(Unavailable):
    """A call that exceeded ECR's rate limit."""


class RepositoryNotFound(RegistryError):
    """The repository does not exist."""


class PolicyRejected(RegistryError):
    """ECR rejects a whole policy, most likely for a principal that does not exist, and does not say which."""


class PolicyNotFound(RegistryError):
    """The repository, or the registry, exists and has no policy."""


class Registry:
    """The ECR private registry of the function's own account and region.

    Threads may share it: they share one rate limiter.
    """

    def __init__(self, client: ECRClient, rate_limiter: RateLimiter | None = None) -> None:
        """Use an ECR client, which must not retry on its own."""
        self._client = client
        self._rate_limiter = rate_limiter or RateLimiter()

    @classmethod
    def connect(cls) -> Self:
        """Create the client. That takes far longer than a call: do it once per process."""
        return cls(boto3.client("ecr", config=CLIENT_CONFIG))

    def list_repositories(self, token: str | None = None) -> tuple[list[str], str | None]:
        """List one page of repository names.

        Args:
            token: the page to list, as the previous page gave it; None for the first.

        Returns:
            The page's names, and the token of the next page or None if it was the last.

        Raises:
            RegistryError: ECR refused the call; Unavailable if another attempt makes sense.
        """
        permit = self._rate_limiter.acquire()
        page = {} if token is None else {"nextToken": token}
        response = self._call(permit, self._client.describe_repositories, maxResults=_PAGE_SIZE, **page)
        try:
            return [each["repositoryName"] for each in response["repositories"]], response.get("nextToken")
        except KeyError as error:
            raise Unavailable(f"ECR's response to DescribeRepositories has no {error}") from None

    def get_policy(self, name: str) -> str | None:
        """Read the text of a repository's policy, or None if it has none.

        Raises:
            RepositoryNotFound: there is no such repository.
            RegistryError: ECR refused the call; Unavailable if another attempt makes sense.
        """
        read = partial(self._client.get_repository_policy, repositoryName=name)
        return self._policy_text("GetRepositoryPolicy", read)

    def get_registry_policy(self) -> str | None:
        """Read the text of the registry's own policy, or None if it has none.

        Raises:
            RegistryError: ECR refused the call; Unavailable if another attempt makes sense.
        """
        return self._policy_text("GetRegistryPolicy", self._client.get_registry_policy)

    def set_policy(self, name: str, text: str) -> None:
        """Replace a repository's policy, whatever it is by now: ECR has no conditional write.

        Raises:
            RepositoryNotFound: there is no such repository.
            PolicyRejected: ECR rejects the policy; a principal in it may not exist.
            RegistryError: ECR refused the call; Unavailable if another attempt makes sense, after a new read.
        """
        permit = self._rate_limiter.acquire_for_write()
        self._call(permit, self._client.set_repository_policy, repositoryName=name, policyText=text)

    def _policy_text(
        self,
        operation_name: str,
        read: Callable[[], GetRepositoryPolicyResponseTypeDef | GetRegistryPolicyResponseTypeDef],
    ) -> str | None:
        try:
            response = self._call(self._rate_limiter.acquire(), read)
        except PolicyNotFound:
            return None
        try:
            return response["policyText"]
        except KeyError as error:
            raise Unavailable(f"ECR's response to {operation_name} has no {error}") from None

    def _call[**P, T](
        self, permit: Permit, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            response = operation(*args, **kwargs)
        except ClientError as error:
            translated = _translate(error)
            if isinstance(translated, Throttled):
                self._rate_limiter.on_throttle(permit)
            elif not isinstance(translated, Unavailable):
                self._rate_limiter.on_success(permit)
            raise translated from None
        except (BotoConnectionError, HTTPClientError) as error:
            raise Unavailable(f"ECR did not answer: {error}") from None
        except BotoCoreError as error:
            raise RegistryError(f"ECR could not be called: {error}") from None
        self._rate_limiter.on_success(permit)
        return response


def _translate(error: ClientError) -> RegistryError:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message") or "no message"
    text = f"ECR refused {error.operation_name}: {code}: {message}"
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "RepositoryNotFoundException":
        return RepositoryNotFound(text)
    if code in {"RepositoryPolicyNotFoundException", "RegistryPolicyNotFoundException"}:
        return PolicyNotFound(text)
    context = RetryContext(attempt_number=1, parsed_response=error.response)
    if code == _ECR_THROTTLE or status == _TOO_MANY_REQUESTS or _is_throttle(context):
        return Throttled(text)
    if status >= _SERVER_ERROR or status == _REQUEST_TIMEOUT or _is_transient(context):
        return Unavailable(text)
    if _POLICY_INVALID in message:
        text += ": a principal does not exist, or ECR does not accept another part of the policy"
    if _PRINCIPAL_NOT_FOUND in message or _POLICY_INVALID in message:
        return PolicyRejected(text)
    return RegistryError(text)

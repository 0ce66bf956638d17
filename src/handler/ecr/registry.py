"""The private registry of Amazon ECR: the only module that calls ECR."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime  # noqa: TC003 - of a field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler.ecr.errors import PolicyNotFound, Throttled, Unavailable, translate
from handler.ecr.rate_limiter import Permit, RateLimiter
from handler.ecr.retry import CONNECT_TIMEOUT, READ_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_ecr.type_defs import (
        DescribeRepositoriesResponseTypeDef,
        GetRegistryPolicyResponseTypeDef,
        GetRepositoryPolicyResponseTypeDef,
    )

    type _Policy = GetRegistryPolicyResponseTypeDef | GetRepositoryPolicyResponseTypeDef

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


class Listed(NamedTuple):
    """A repository as DescribeRepositories lists it: its name, and when it was created."""

    name: str
    created_at: datetime | None = None


class Registry:
    """The ECR private registry of the function's own account and region.

    Threads may share it: they share one rate limiter. Each call raises RegistryError if ECR refuses it:
    Unavailable if another attempt makes sense, which for a write starts with a new read.
    """

    def __init__(self, client: ECRClient, rate_limiter: RateLimiter | None = None) -> None:
        """Use an ECR client, which must not retry on its own."""
        self._client = client
        self._rate_limiter = rate_limiter or RateLimiter()

    @classmethod
    def connect(cls) -> Self:
        """Create the client. That takes far longer than a call: do it once per process."""
        return cls(boto3.client("ecr", config=CLIENT_CONFIG))

    @property
    def partition(self) -> str:
        """The partition that the registry is in."""
        return self._client.meta.partition

    def list_repositories(self, token: str | None = None) -> tuple[list[Listed], str | None]:
        """List one page of repositories.

        Args:
            token: the page to list, as the previous page gave it; None for the first.

        Returns:
            The page, and the token of the next page or None if it was the last.
        """
        permit = self._rate_limiter.acquire()
        page = {} if token is None else {"nextToken": token}
        call = partial(self._client.describe_repositories, maxResults=_PAGE_SIZE, **page)
        return self._listed(permit, call)

    def created_at(self, name: str) -> datetime | None:
        """Return when a repository was created, if ECR says so. Raises RepositoryNotFound."""
        call = partial(self._client.describe_repositories, repositoryNames=[name])
        listed, _ = self._listed(self._rate_limiter.acquire(), call)
        return next((each.created_at for each in listed), None)

    def _listed(
        self, permit: Permit, call: Callable[[], DescribeRepositoriesResponseTypeDef]
    ) -> tuple[list[Listed], str | None]:
        response = self._call(permit, "DescribeRepositories", call)
        try:
            found = response["repositories"]
            listed = [Listed(each["repositoryName"], each.get("createdAt")) for each in found]
        except KeyError as error:
            raise Unavailable(f"ECR's response to DescribeRepositories has no {error}") from None
        return listed, response.get("nextToken")

    def get_policy(self, name: str) -> str | None:
        """Read the text of a repository's policy, or None if it has none. Raises RepositoryNotFound."""
        read = partial(self._client.get_repository_policy, repositoryName=name)
        return self._policy_text("GetRepositoryPolicy", read)

    def get_registry_policy(self) -> str | None:
        """Read the text of the registry's own policy, or None if it has none."""
        return self._policy_text("GetRegistryPolicy", self._client.get_registry_policy)

    def set_policy(self, name: str, text: str) -> None:
        """Replace a repository's policy, whatever it is by now: ECR has no conditional write.

        Raises:
            RepositoryNotFound: there is no such repository.
            PolicyRejected: ECR rejects the policy; a principal in it may not exist.
        """
        self._set_policy(self._rate_limiter.acquire_for_write(), name, text)

    def delete_policy(self, name: str) -> None:
        """Delete a repository's policy, whatever it is by now. Raises RepositoryNotFound."""
        with suppress(PolicyNotFound):
            call = partial(self._client.delete_repository_policy, repositoryName=name)
            self._call(self._rate_limiter.acquire_for_write(), "DeleteRepositoryPolicy", call)

    def check_policy(self, name: str, text: str) -> None:
        """Set a policy only to learn whether ECR accepts it. Raises what `set_policy` raises."""
        # No read precedes this write, so it takes the permit of a read.
        self._set_policy(self._rate_limiter.acquire(), name, text)

    def _set_policy(self, permit: Permit, name: str, text: str) -> None:
        call = partial(self._client.set_repository_policy, repositoryName=name, policyText=text)
        self._call(permit, "SetRepositoryPolicy", call)

    def _policy_text(self, name: str, read: Callable[[], _Policy]) -> str | None:
        try:
            return self._call(self._rate_limiter.acquire(), name, read)["policyText"]
        except PolicyNotFound:
            return None
        except KeyError as error:
            raise Unavailable(f"ECR's response to {name} has no {error}") from None

    def _call[T: Mapping[str, object]](self, permit: Permit, name: str, call: Callable[[], T]) -> T:
        response: T | None = None
        try:
            response = call()
        except (ClientError, BotoCoreError) as error:
            translated = translate(error)
            if isinstance(translated, Throttled):
                self._rate_limiter.on_throttle(permit)
            elif isinstance(error, ClientError) and not isinstance(translated, Unavailable):
                self._rate_limiter.on_success(permit)
            raise translated from None
        except (AttributeError, TypeError, ValueError):
            pass  # the SDK's parser found no JSON object
        # From HTML and from an unrelated object, the SDK returns no member of ECR's response.
        if not response or response.keys() <= {"ResponseMetadata"}:
            raise Unavailable(
                f"ECR's response to {name} does not have ECR's format: a proxy may have sent the response"
            )
        self._rate_limiter.on_success(permit)
        return response

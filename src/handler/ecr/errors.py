"""The errors of ECR: one tree of exceptions, and one place that translates the SDK's errors."""

from http import HTTPStatus

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

# The SDK's standard retry mode, ECR's API guide ("ThrottleException") and HTTP (429).
THROTTLES = frozenset(
    (
        *("BandwidthLimitExceeded", "EC2ThrottledException", "LimitExceededException", "SlowDown"),
        *("PriorRequestNotComplete", "ProvisionedThroughputExceededException", "RequestLimitExceeded"),
        *("RequestThrottled", "RequestThrottledException", "ThrottleException", "ThrottledException"),
        *("Throttling", "ThrottlingException", "TooManyRequestsException", "TransactionInProgressException"),
    )
)
TRANSIENT = frozenset({"RequestTimeout", "RequestTimeoutException"})
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


_BY_CODE = {
    "RepositoryNotFoundException": RepositoryNotFound,
    "RepositoryPolicyNotFoundException": PolicyNotFound,
    "RegistryPolicyNotFoundException": PolicyNotFound,
}


def translate(error: ClientError | BotoCoreError) -> RegistryError:
    """Return the error of this module for an error of the SDK."""
    if isinstance(error, BotoConnectionError | HTTPClientError):
        return Unavailable(f"ECR did not answer: {error}")
    if isinstance(error, BotoCoreError):
        return RegistryError(f"ECR could not be called: {error}")
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message") or "no message"
    text = f"ECR refused {error.operation_name}: {code}: {message}"
    if _POLICY_INVALID in message:
        text += ": a principal does not exist, or ECR does not accept another part of the policy"
    return _kind(code, message, error.response["ResponseMetadata"]["HTTPStatusCode"])(text)


def _kind(code: str, message: str, status: int) -> type[RegistryError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code in THROTTLES or status == HTTPStatus.TOO_MANY_REQUESTS:
        return Throttled
    if (
        code in TRANSIENT
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or status == HTTPStatus.REQUEST_TIMEOUT
    ):
        return Unavailable
    return PolicyRejected if _PRINCIPAL_NOT_FOUND in message or _POLICY_INVALID in message else RegistryError

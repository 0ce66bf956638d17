"""The errors of `make plan`: each is one sentence that says what to do."""

from __future__ import annotations

import re

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from scripts.plan_client import READS

_ACTIONS = ", ".join(f"ecr:{name}" for name in READS)
_NO_CREDENTIALS = (
    "No AWS credentials were found: set AWS_PROFILE to a profile of your AWS configuration, or run "
    "`aws configure` or `aws sso login`."
)
_EXPIRED = "The AWS credentials have expired: log in again, for example with `aws sso login`, and try again."
_NOT_ACCEPTED = (
    "AWS does not accept the credentials ({code}): check AWS_PROFILE, the AWS_ACCESS_KEY_ID variables, and "
    "that the region is enabled for the account."
)
_DENIED = f"The credentials have no permission for {{operation}}: allow {_ACTIONS} (AWS says: {{message}})."
_LOGIN_DENIED = "The credentials have no permission for {operation}: check the profile (AWS says: {message})."
_UNREACHABLE = "ECR cannot be reached: check the network, the proxy and the region's name ({error})."
# The first type that an error has decides.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (NoCredentialsError, _NO_CREDENTIALS),
    (PartialCredentialsError, _NO_CREDENTIALS),
    (NoRegionError, "No AWS region is set: add AWS_REGION, for example AWS_REGION=us-east-1."),
    (SSOError, _EXPIRED),
    (TokenRetrievalError, _EXPIRED),
    (ProfileNotFound, "{error}: check AWS_PROFILE, or list the profiles with `aws configure list-profiles`."),
    (BotoConnectionError, _UNREACHABLE),
    (HTTPClientError, _UNREACHABLE),
    (BotoCoreError, "The AWS SDK cannot call ECR: {error}."),
)

_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_NOT_ACCEPTED_CODES = (
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)
_DENIED_CODES = ("AccessDenied", "AccessDeniedException")
# The form in which a result's reason, or a RegistryError, holds ECR's error.
_REASON = re.compile(r".*ECR refused (?P<operation>\w+): (?P<code>\w+): (?P<message>.*)", re.DOTALL)


class PlanError(Exception):
    """The plan cannot be made; the message is one sentence for the user."""


def explain(error: Exception) -> str | None:
    """Return the sentence for an AWS error, or None for an error that another attempt may not have."""
    if isinstance(error, ClientError):
        details = error.response["Error"]
        return _explain_code(error.operation_name, details["Code"], details.get("Message", ""))
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence.format(error=" ".join(str(error).split()).rstrip("."))
    return None


def explain_reason(reason: str) -> str | None:
    """Return the sentence for a result's reason, or None if the cause may be in the repository."""
    match = _REASON.fullmatch(reason)
    return _explain_code(match["operation"], match["code"], match["message"]) if match else None


def is_denied(reason: str) -> bool:
    """Return whether the caller had no permission, which a repository's own policy may cause."""
    match = _REASON.fullmatch(reason)
    return match is not None and match["code"] in _DENIED_CODES


def _explain_code(operation: str, code: str, message: str) -> str | None:
    if code in _EXPIRED_CODES:
        return _EXPIRED
    if code in _NOT_ACCEPTED_CODES:
        return _NOT_ACCEPTED.format(code=code)
    if code in _DENIED_CODES:
        sentence = _DENIED if operation in READS else _LOGIN_DENIED
        return sentence.format(operation=operation, message=message.rstrip("."))
    return None

"""The errors of the command line: each is one sentence that says what to do."""

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
from botocore.parsers import ResponseParserError

from cli.permissions import PLAN, permission

NO_REGION = "No AWS region is set: add --region, for example --region us-east-1."
_NO_CREDENTIALS = (
    "No AWS credentials were found: add --profile with a profile of your AWS configuration, or run "
    "`aws configure` or `aws sso login`."
)
_EXPIRED = "The AWS credentials have expired: log in again, for example with `aws sso login`, and try again."
_NOT_ACCEPTED = (
    "AWS does not accept the credentials ({code}): check --profile, the AWS_ACCESS_KEY_ID variables, and "
    "that the region is enabled for the account."
)
_DENIED = "The credentials have no permission for {operation}: allow {actions} (AWS says: {message})."
_UNREACHABLE = "AWS cannot be reached: check the network, the proxy and the region's name ({error})."
_NOT_AWS = (
    "The response to {operation} is not from AWS: check the network and whether a proxy or a login page "
    "answers instead."
)
# The first type that an error has decides.
_SENTENCES: tuple[tuple[type[Exception], str], ...] = (
    (NoCredentialsError, _NO_CREDENTIALS),
    (PartialCredentialsError, _NO_CREDENTIALS),
    (NoRegionError, NO_REGION),
    (SSOError, _EXPIRED),
    (TokenRetrievalError, _EXPIRED),
    (ProfileNotFound, "{error}: check --profile, or list the profiles with `aws configure list-profiles`."),
    (BotoConnectionError, _UNREACHABLE),
    (HTTPClientError, _UNREACHABLE),
    (BotoCoreError, "The AWS SDK cannot call AWS: {error}."),
    (ResponseParserError, _NOT_AWS.format(operation="a call")),
)

_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_NOT_ACCEPTED_CODES = (
    "AuthFailure",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)
DENIED_CODES = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
# The form in which a result's reason, or a RegistryError, holds ECR's error.
_REASON = re.compile(r".*ECR refused (?P<operation>\w+): (?P<code>\w+): (?P<message>.*)", re.DOTALL)
_INCOMPLETE = re.compile(r".*ECR's response to (?P<operation>\w+) (?:has no|does not have) .*", re.DOTALL)
_HTML = re.compile(r"\s*<")


class CliError(Exception):
    """The command cannot do its work; the message is one sentence for the user."""


def explain(error: Exception) -> str | None:
    """Return the sentence for an AWS error, or None for an error that another attempt may not have."""
    if isinstance(error, ClientError):
        details = error.response["Error"]
        return _explain_code(error.operation_name, details["Code"], details.get("Message", ""))
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence.format(error=" ".join(str(error).split()).rstrip("."))
    return None


def sentence_of(error: Exception) -> str:
    """Return a sentence for any AWS error."""
    if sentence := explain(error):
        return sentence
    if isinstance(error, ClientError):
        details = error.response["Error"]
        message = details.get("Message", "").rstrip(".")
        return f"AWS refused {error.operation_name}: {details['Code']}: {message}."
    return f"{error}."


def not_from_aws(operation: str) -> CliError:
    """Return the error for a response that AWS does not send."""
    return CliError(_NOT_AWS.format(operation=operation))


def explain_reason(reason: str) -> str | None:
    """Return the sentence for a result's reason, or None if the cause may be in the repository."""
    if match := _REASON.fullmatch(reason):
        return _explain_code(match["operation"], match["code"], match["message"])
    if match := _INCOMPLETE.fullmatch(reason):
        return _NOT_AWS.format(operation=match["operation"])
    return None


def is_denied(reason: str) -> bool:
    """Return whether the caller had no permission, which a repository's own policy may cause."""
    match = _REASON.fullmatch(reason)
    return match is not None and match["code"] in DENIED_CODES


def _explain_code(operation: str, code: str, message: str) -> str | None:
    # The SDK takes the code from the HTTP status if the body has none.
    if _HTML.match(message) or code.isdecimal():
        return _NOT_AWS.format(operation=operation)
    if code in _EXPIRED_CODES:
        return _EXPIRED
    if code in _NOT_ACCEPTED_CODES:
        return _NOT_ACCEPTED.format(code=code)
    if code in DENIED_CODES:
        needed = permission(operation)
        actions = ", ".join(PLAN) if needed in PLAN else needed
        return _DENIED.format(operation=operation, actions=actions, message=message.rstrip("."))
    return None

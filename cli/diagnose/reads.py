"""One read for a diagnosis: a missing permission is a fact, and every other error ends the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from cli.diagnose.facts import Unknown
from cli.errors import DENIED_CODES, explain, not_from_aws
from cli.permissions import permission

if TYPE_CHECKING:
    from collections.abc import Callable


def read[T](call: Callable[[], T], *, optional: bool = False) -> T | Unknown:
    """Make a read.

    Args:
        call: the read, and the parsing of its response.
        optional: whether also another refusal is only a fact, because the region may not have the call.

    Raises:
        CliError: the response is not from AWS.
        ClientError: AWS refuses the call for another reason.
        BotoCoreError: AWS cannot be called.
    """
    operation = "a call"
    try:
        return call()
    except ClientError as error:
        code, operation = error.response["Error"]["Code"], error.operation_name
        if code in DENIED_CODES:
            return Unknown(f"the credentials have no permission {permission(operation)}")
        if optional and not explain(error):
            return Unknown(f"{permission(operation)} answered {code}")
        raise
    except (KeyError, TypeError, ValueError):
        raise not_from_aws(operation) from None


def code_of(error: ClientError) -> str:
    """Return the code of an error."""
    return error.response["Error"]["Code"]

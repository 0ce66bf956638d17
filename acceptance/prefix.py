"""The prefix of everything that one acceptance run creates. Pure but for its randomness."""

from __future__ import annotations

import re
import secrets

_PATTERN = re.compile(r"ecr-allow-pull-acceptance-[0-9a-f]{8}")


class InvalidPrefix(ValueError):
    """A text is not the prefix of an acceptance run."""


def new_prefix() -> str:
    """Return a new random prefix. It is also a valid name of a bucket, a stack and a repository."""
    return f"ecr-allow-pull-acceptance-{secrets.token_hex(4)}"


def checked(prefix: str) -> str:
    """Return a prefix that a user gave: the cleanup deletes everything whose name starts with it.

    Raises:
        InvalidPrefix: it is not exactly the prefix of one run, and may be that of other resources.
    """
    if not _PATTERN.fullmatch(prefix):
        raise InvalidPrefix(
            f"{prefix!r} is not the prefix of an acceptance run: expected ecr-allow-pull-acceptance- and "
            "eight hexadecimal digits, as the run printed it. Nothing was deleted"
        )
    return prefix


def cleanup_command(prefix: str) -> str:
    """Return the command that deletes what a run created."""
    return f"make acceptance CLEANUP={prefix}"

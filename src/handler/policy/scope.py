"""Repository names, the globs that select them, and the scope."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

# The rule of CreateRepository for `repositoryName`, from the ECR API reference.
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")
_NAME_LENGTH = range(2, 256 + 1)
_MAX_GLOB_LENGTH = 512  # twice the longest name, so that sets like [abc] fit
_GLOB = re.compile(r"(?:[a-z0-9._/*?-]|\[!?[a-z0-9._/-]+\])+")
_INVALID_PATH = re.compile(r"/.*|.*//.*|.*/")
_ADDRESS = ".dkr.ecr."
_WILDCARDS = frozenset("*?[")
# The repositories that stacks of this project check roles with: outside every scope, also another stack's.
# Otherwise, the checks of one stack would be drift to another.
ROLE_CHECK_PREFIX = "ecr-allow-pull-role-check/"


class InvalidPattern(ValueError):
    """A pattern that is neither a repository name nor a glob that could match one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The repositories that a list of globs selects."""

    included: tuple[str, ...] = ("*",)
    excluded: tuple[str, ...] = ()

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Self:
        """Parse globs, in which `*` also matches `/`, and `!glob` excludes.

        The order of the patterns does not matter: what any `!glob` matches is excluded.

        Raises:
            InvalidPattern: a glob could match no repository, or none includes any.
        """
        included: list[str] = []
        excluded: list[str] = []
        for pattern in patterns:
            glob = pattern.removeprefix("!")
            validate_pattern(glob)
            if pattern == "!*":
                raise InvalidPattern("'!*' excludes every repository")
            (included if glob == pattern else excluded).append(glob)
        if not included:
            raise InvalidPattern(
                'it includes nothing: start with what to include, for example "*,!scratch/*"'
            )
        return cls(tuple(included), tuple(excluded))

    def __contains__(self, name: str) -> bool:
        """Return whether the repository of this name is in scope."""
        return (
            not is_for_role_checks(name)
            and matches_any(name, self.included)
            and not matches_any(name, self.excluded)
        )


def is_for_role_checks(name: str) -> bool:
    """Return whether the repository belongs to a stack of this project, which checks roles with it."""
    return name.startswith(ROLE_CHECK_PREFIX)


def is_glob(pattern: str) -> bool:
    """Return whether the pattern may match several repositories rather than name one."""
    return not _WILDCARDS.isdisjoint(pattern)


def is_repository_name(name: str) -> bool:
    """Return whether ECR could hold a repository of this name."""
    return len(name) in _NAME_LENGTH and _NAME.fullmatch(name) is not None


def matches_any(name: str, globs: Iterable[str]) -> bool:
    """Return whether one of the globs matches the whole name."""
    return any(fnmatchcase(name, glob) for glob in globs)


def validate_pattern(pattern: str) -> None:
    """Check that a pattern is a repository name, or a glob that could match one.

    Raises:
        InvalidPattern: it is neither.
    """
    if is_repository_name(pattern):
        return
    if len(pattern) > _MAX_GLOB_LENGTH:
        raise InvalidPattern(
            f"{pattern[:60]!r}... has {len(pattern):,} characters; {_MAX_GLOB_LENGTH} are allowed"
        )
    if _ADDRESS in pattern and not _GLOB.fullmatch(pattern):
        raise InvalidPattern(
            f"{pattern!r} is the address of an image; use the repository name: what follows the first /, "
            "without a tag"
        )
    if not is_glob(pattern) or not _GLOB.fullmatch(pattern) or _INVALID_PATH.fullmatch(pattern):
        raise InvalidPattern(
            f"{pattern!r} is not a name that an ECR repository can have, and no glob that could match one "
            "(2-256 characters: lower-case letters and digits, with single . _ / or -, __ or -- between "
            "them; a glob may also hold the wildcards * ? [abc] [!abc])"
        )

"""The settings: environment variables, validated once per cold start. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from handler.grants import DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Grant
from handler.scope import InvalidPattern, Scope

_NONE = "none"
_EXAMPLE_ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
# Errors show values up to this length: two ARNs of roles with a path.
_MAX_SHOWN = 300  # characters
# The form of an IAM role's ARN: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
# A path may hold any character from ! to ~. Not accepted are those that mean something else here: a comma, a
# wildcard, a policy variable and a second ARN.
_ROLE = re.compile(
    r"(?!.*(?:\$\{|arn:.*arn:))arn:aws(?:-[a-z]+)*:iam::[0-9]{12}:role/"
    r"(?:[!-)+\-->@-~]*/)?[A-Za-z0-9_+=.@-]{1,64}"
)
# What people enter instead, each with a hint.
_COMMON_MISTAKES = (
    (
        re.compile(r"arn:.*arn:.*"),
        "is more than one ARN; separate the worker roles by commas",
    ),
    (
        re.compile(r".*[*?].*"),
        "is a wildcard, which would grant the pull to others too; list each worker role by its own ARN",
    ),
    (
        re.compile(
            r"arn:(?P<partition>[^:]+):sts::(?P<account>[0-9]{12}):assumed-role/(?P<name>[^/]+)(?:/.*)?"
        ),
        (
            "is a session of a role, not the role; use "
            "arn:{partition}:iam::{account}:role/{name} (with the path before the name, if the role has one)"
        ),
    ),
    (
        re.compile(r"arn:(?P<partition>[^:]+):iam::(?P<account>[0-9]{12}):instance-profile/(?P<name>.+)"),
        (
            "is an instance profile; use the ARN of its role, probably "
            "arn:{partition}:iam::{account}:role/{name}"
        ),
    ),
    (
        re.compile(r"arn:[^:]+:iam::[0-9]{12}:user/.+"),
        f"is an IAM user; use the role that the worker nodes run under, for example {_EXAMPLE_ROLE}",
    ),
    (
        re.compile(r"[0-9]{12}|arn:[^:]+:iam::[0-9]{12}:root"),
        f"is a whole account; use the worker role in the account, for example {_EXAMPLE_ROLE}",
    ),
    (
        re.compile(r"(?P<name>[A-Za-z0-9_+=.@-]{1,64})"),
        (
            "is only a name; use the role's full ARN, "
            "arn:aws:iam::ACCOUNT:role/{name} with the data plane's account"
        ),
    ),
)


class InvalidSetting(ValueError):
    """An environment variable that is missing or wrong."""

    def __init__(self, variable: str, value: str, hint: str) -> None:
        """Name the variable, its value, and how to correct it."""
        super().__init__(f"{variable} is {_shortened(value)!r}: {hint}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the deployer configured. Principals come from here alone."""

    worker_role_arns: tuple[str, ...]
    describe_role_arns: tuple[str, ...]
    scope: Scope
    pull_through_cache: Scope
    plan: bool
    remove_unlisted_roles: bool

    def grants(self, repository: str | None = None) -> tuple[Grant, ...]:
        """Return all grants, with the roles that get them in a repository in scope, or anywhere."""
        if repository is None:
            imports = bool(self.pull_through_cache.included)
        else:
            imports = repository in self.pull_through_cache
        return (
            Grant(PULL, self.worker_role_arns),
            Grant(DESCRIBE_IMAGES, self.describe_role_arns),
            Grant(PULL_THROUGH_CACHE, self.worker_role_arns if imports else ()),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from environment variables.

        Raises:
            InvalidSetting: a variable is missing or wrong; gives its name, its value and the correction.
        """
        mode = _choice(environment, "MODE", default="enforce", other="plan")
        remove = _choice(environment, "REMOVE_UNLISTED_ROLES", default="false", other="true")
        return cls(
            worker_role_arns=_worker_role_arns(environment),
            describe_role_arns=_roles(environment, "DESCRIBE_ROLE_ARNS"),
            scope=_scope(environment, "REPOSITORIES", default="*"),
            pull_through_cache=_scope(environment, "PULL_THROUGH_CACHE_REPOSITORIES", default=_NONE),
            plan=mode == "plan",
            remove_unlisted_roles=remove == "true",
        )


def _worker_role_arns(environment: Mapping[str, str]) -> tuple[str, ...]:
    variable = "WORKER_ROLE_ARNS"
    arns = _roles(environment, variable)
    if not arns:
        value = environment.get(variable, "")
        hint = f"list the ARN of at least one worker role, for example {_EXAMPLE_ROLE}"
        raise InvalidSetting(variable, value, hint)
    return arns


def _roles(environment: Mapping[str, str], variable: str) -> tuple[str, ...]:
    value = environment.get(variable, _NONE)
    arns = [] if value.strip() == _NONE else _split_csv(value)
    for arn in arns:
        if not _ROLE.fullmatch(arn):
            raise InvalidSetting(variable, value, f"{_shortened(arn)!r} {_role_hint(arn)}")
    return tuple(dict.fromkeys(arns))


def _role_hint(value: str) -> str:
    for mistake, hint in _COMMON_MISTAKES:
        if match := mistake.fullmatch(value):
            return hint.format_map(match.groupdict())
    return f"is not the ARN of an IAM role; it should look like {_EXAMPLE_ROLE}"


def _scope(environment: Mapping[str, str], variable: str, *, default: str) -> Scope:
    value = environment.get(variable, default)
    if default == value.strip() == _NONE:
        return Scope(included=())
    patterns = _split_csv(value)
    if not patterns:
        raise InvalidSetting(variable, value, 'list globs, separated by commas, or "*" for all repositories')
    try:
        return Scope.parse(patterns)
    except InvalidPattern as error:
        raise InvalidSetting(variable, value, str(error)) from None


def _choice(environment: Mapping[str, str], variable: str, *, default: str, other: str) -> str:
    value = environment.get(variable, default)
    if (choice := value.strip().lower()) not in (default, other):
        raise InvalidSetting(variable, value, f'use "{default}" or "{other}"')
    return choice


def _shortened(value: str) -> str:
    return value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}..."


def _split_csv(value: str) -> list[str]:
    return [item for part in value.split(",") if (item := part.strip())]

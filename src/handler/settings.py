"""The settings: environment variables, validated once per cold start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from handler.policy.grants import DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Grant
from handler.policy.role_arn import EXAMPLE_ROLE, role_arn_error
from handler.policy.scope import ROLE_CHECK_PREFIX, InvalidPattern, Scope, is_repository_name

_NONE = "none"
# Errors show values up to this length: two ARNs of roles with a path.
_MAX_SHOWN = 300  # characters
_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")
_ALL_VARIABLES = (
    "Set all variables that the template sets: an update of the function's configuration replaces all of them"
)


class InvalidSetting(ValueError):
    """An environment variable that is missing or wrong."""

    def __init__(self, variable: str, value: str | None, hint: str) -> None:
        """Name the variable, its value if there is one, and how to correct it."""
        state = "missing" if value is None else repr(_shortened(value))
        super().__init__(f"{variable} is {state}: {hint}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the deployer configured. Principals come from here alone.

    Attributes:
        worker_role_arns: the roles that may pull.
        describe_role_arns: the roles that may list images.
        scope: the repositories in scope.
        pull_through_cache: the repositories into which the worker roles may import images.
        plan_mode: write nothing.
        remove_unlisted_roles: our statements hold exactly the configured roles.
        role_name: the function's role. It identifies the function's own writes.
        role_check_repository: the repository of the stack itself, in which policies are tried.
    """

    worker_role_arns: tuple[str, ...]
    describe_role_arns: tuple[str, ...]
    scope: Scope
    pull_through_cache: Scope
    plan_mode: bool
    remove_unlisted_roles: bool
    role_name: str
    role_check_repository: str

    @property
    def roles(self) -> tuple[str, ...]:
        """All configured roles, each once."""
        return tuple(dict.fromkeys((*self.worker_role_arns, *self.describe_role_arns)))

    def grants_for(self, repository: str) -> tuple[Grant, ...]:
        """Return the grants of a repository in scope."""
        return self._grants(imports=repository in self.pull_through_cache)

    def all_grants(self) -> tuple[Grant, ...]:
        """Return the grants that any repository may have."""
        return self._grants(imports=bool(self.pull_through_cache.included))

    def _grants(self, *, imports: bool) -> tuple[Grant, ...]:
        return (
            Grant(PULL, self.worker_role_arns),
            Grant(DESCRIBE_IMAGES, self.describe_role_arns),
            Grant(PULL_THROUGH_CACHE, self.worker_role_arns if imports else ()),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from environment variables.

        The worker roles, the scope, the mode and the stack's own names have no default. Otherwise, an update of
        the function that drops variables would extend the scope to everything, and turn plan mode off.

        Raises:
            InvalidSetting: a variable is missing or wrong; gives its name, its value and the correction.
        """
        return cls(
            worker_role_arns=_worker_role_arns(environment),
            describe_role_arns=_roles(environment, "DESCRIBE_ROLE_ARNS"),
            scope=_scope(environment, "REPOSITORIES"),
            pull_through_cache=_pull_through_cache(environment),
            plan_mode=_choice(environment, "MODE", "enforce", "plan") == "plan",
            remove_unlisted_roles=_remove_unlisted_roles(environment),
            role_name=_role_name(environment),
            role_check_repository=_role_check_repository(environment),
        )


def _required(environment: Mapping[str, str], variable: str, hint: str) -> str:
    value = environment.get(variable)
    if value is None:
        raise InvalidSetting(variable, value, f"{hint}. {_ALL_VARIABLES}")
    return value


def _worker_role_arns(environment: Mapping[str, str]) -> tuple[str, ...]:
    variable = "WORKER_ROLE_ARNS"
    hint = f"list the ARN of at least one worker role, for example {EXAMPLE_ROLE}"
    value = _required(environment, variable, hint)
    arns = _roles(environment, variable)
    if not arns:
        raise InvalidSetting(variable, value, hint)
    return arns


def _roles(environment: Mapping[str, str], variable: str) -> tuple[str, ...]:
    value = environment.get(variable, _NONE)
    arns = [] if value.strip() == _NONE else _split_csv(value)
    for arn in arns:
        if error := role_arn_error(arn):
            raise InvalidSetting(variable, value, f"{_shortened(arn)!r} {error}")
    return tuple(dict.fromkeys(arns))


def _pull_through_cache(environment: Mapping[str, str]) -> Scope:
    variable = "PULL_THROUGH_CACHE_REPOSITORIES"
    if environment.get(variable, _NONE).strip() == _NONE:
        return Scope(included=())
    return _scope(environment, variable)


def _scope(environment: Mapping[str, str], variable: str) -> Scope:
    hint = 'list globs, separated by commas, or "*" for all repositories'
    value = _required(environment, variable, hint)
    patterns = _split_csv(value)
    if not patterns:
        raise InvalidSetting(variable, value, hint)
    try:
        return Scope.parse(patterns)
    except InvalidPattern as error:
        raise InvalidSetting(variable, value, str(error)) from None


def _choice(environment: Mapping[str, str], variable: str, *choices: str) -> str:
    hint = f"use {' or '.join(f'"{choice}"' for choice in choices)}"
    value = _required(environment, variable, hint)
    if (choice := value.strip().lower()) not in choices:
        raise InvalidSetting(variable, value, hint)
    return choice


def _remove_unlisted_roles(environment: Mapping[str, str]) -> bool:
    variable = "REMOVE_UNLISTED_ROLES"
    return variable in environment and _choice(environment, variable, "false", "true") == "true"


def _role_name(environment: Mapping[str, str]) -> str:
    variable = "ROLE_NAME"
    hint = "use the name of the function's role, without its path"
    value = _required(environment, variable, hint)
    if not _NAME.fullmatch(value):
        raise InvalidSetting(variable, value, hint)
    return value


def _role_check_repository(environment: Mapping[str, str]) -> str:
    variable = "ROLE_CHECK_REPOSITORY"
    hint = f"use the name of the stack's own repository, which starts with {ROLE_CHECK_PREFIX}"
    value = _required(environment, variable, hint)
    if not value.startswith(ROLE_CHECK_PREFIX) or not is_repository_name(value):
        raise InvalidSetting(variable, value, hint)
    return value


def _shortened(value: str) -> str:
    return value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}..."


def _split_csv(value: str) -> list[str]:
    return [item for part in value.split(",") if (item := part.strip())]

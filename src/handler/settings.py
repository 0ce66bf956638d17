"""The settings: environment variables, validated once per cold start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from handler.policy.grants import DESCRIBE_IMAGES, PULL, PULL_THROUGH_CACHE, Grant
from handler.policy.role_arn import EXAMPLE_ROLE, role_arn_error
from handler.policy.scope import ROLE_CHECK_PREFIX, InvalidPattern, Scope

_NONE = "none"
LOG_LEVELS = ("debug", "info", "warn", "warning", "error", "critical")
# Errors show values up to this length: two ARNs of roles with a path.
_MAX_SHOWN = 300  # characters
# A stack's name, from the CloudFormation API reference.
_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
_ROLE_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")
_ROLE_CHECK_REPOSITORY = re.compile(rf"{ROLE_CHECK_PREFIX}[a-z0-9-]{{1,64}}")
_ALL_VARIABLES = (
    "Set all variables that the template sets: an update of the function's configuration replaces all of them"
)


class Mode(StrEnum):
    """What the function does with the grants of the repositories in scope."""

    ENFORCE = "enforce"
    PLAN = "plan"
    REMOVE = "remove"


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
        mode: attach the grants, only plan, or remove the configured roles.
        remove_unlisted_roles: our statements hold exactly the configured roles.
        role_name: the function's role. It identifies the function's own writes.
        role_check_repository: the repository of the stack itself, in which policies are tried.
        creation_rule: the name of the rule that matches creation events.
    """

    worker_role_arns: tuple[str, ...]
    describe_role_arns: tuple[str, ...]
    scope: Scope
    pull_through_cache: Scope
    mode: Mode
    remove_unlisted_roles: bool
    role_name: str
    role_check_repository: str
    creation_rule: str = ""

    def grants_for(self, repository: str) -> tuple[Grant, ...]:
        """Return the grants of a repository in scope."""
        return self._grants(imports=repository in self.pull_through_cache)

    def all_grants(self) -> tuple[Grant, ...]:
        """Return the grants that any repository may have."""
        return self._grants(imports=bool(self.pull_through_cache.included))

    def roles(self) -> frozenset[str]:
        """Return all configured roles."""
        return frozenset((*self.worker_role_arns, *self.describe_role_arns))

    def _grants(self, *, imports: bool) -> tuple[Grant, ...]:
        return (
            Grant(PULL, self.worker_role_arns),
            Grant(DESCRIBE_IMAGES, self.describe_role_arns),
            Grant(PULL_THROUGH_CACHE, self.worker_role_arns if imports else ()),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], partition: str | None = None) -> Self:
        """Read the settings from environment variables. All roles must be of the partition, if it is known.

        The worker roles, the scope, the mode and the stack's own names have no default. Otherwise, an update
        of the function that drops variables would extend the scope to everything, and turn plan mode off.

        Raises:
            InvalidSetting: a variable is missing or wrong; gives its name, its value and the correction.
        """
        # Powertools reads these two. Without the first, metrics lose the dimension that the alarms filter by.
        _matching(environment, "POWERTOOLS_SERVICE_NAME", _STACK_NAME, "use the name of the stack")
        _choice({"POWERTOOLS_LOG_LEVEL": "INFO", **environment}, "POWERTOOLS_LOG_LEVEL", *LOG_LEVELS)
        defaults = {"REMOVE_UNLISTED_ROLES": "false", **environment}
        return cls(
            worker_role_arns=_worker_role_arns(environment, partition),
            describe_role_arns=_roles(environment, "DESCRIBE_ROLE_ARNS", partition),
            scope=_scope(environment, "REPOSITORIES"),
            pull_through_cache=_pull_through_cache(environment),
            mode=Mode(_choice(environment, "MODE", *Mode)),
            remove_unlisted_roles=_choice(defaults, "REMOVE_UNLISTED_ROLES", "false", "true") == "true",
            role_name=_matching(
                environment, "ROLE_NAME", _ROLE_NAME, "use the name of the function's role, without its path"
            ),
            role_check_repository=_matching(
                environment,
                "ROLE_CHECK_REPOSITORY",
                _ROLE_CHECK_REPOSITORY,
                f"use the name of the stack's own repository, {ROLE_CHECK_PREFIX} and the id of the stack",
            ),
            creation_rule=environment.get("CREATION_RULE", ""),
        )


def _required(environment: Mapping[str, str], variable: str, hint: str) -> str:
    value = environment.get(variable)
    if value is None:
        raise InvalidSetting(variable, value, f"{hint}. {_ALL_VARIABLES}")
    return value


def _matching(environment: Mapping[str, str], variable: str, pattern: re.Pattern[str], hint: str) -> str:
    value = _required(environment, variable, hint)
    if not pattern.fullmatch(value):
        raise InvalidSetting(variable, value, hint)
    return value


def _choice(environment: Mapping[str, str], variable: str, *choices: str) -> str:
    hint = f"use {' or '.join(f'"{choice}"' for choice in choices)}"
    value = _required(environment, variable, hint)
    if (choice := value.strip().lower()) not in choices:
        raise InvalidSetting(variable, value, hint)
    return choice


def _worker_role_arns(environment: Mapping[str, str], partition: str | None) -> tuple[str, ...]:
    variable = "WORKER_ROLE_ARNS"
    hint = f"list the ARN of at least one worker role, for example {EXAMPLE_ROLE}"
    value = _required(environment, variable, hint)
    if not (arns := _roles(environment, variable, partition)):
        raise InvalidSetting(variable, value, hint)
    return arns


def _roles(environment: Mapping[str, str], variable: str, partition: str | None) -> tuple[str, ...]:
    value = environment.get(variable, _NONE)
    arns = [] if value.strip() == _NONE else _split_csv(value)
    for arn in arns:
        if error := role_arn_error(arn, partition):
            raise InvalidSetting(variable, value, f"{_shortened(arn)!r} {error}")
    return tuple(dict.fromkeys(arns))


def _pull_through_cache(environment: Mapping[str, str]) -> Scope:
    variable = "PULL_THROUGH_CACHE_REPOSITORIES"
    is_none = environment.get(variable, _NONE).strip() == _NONE
    return Scope(included=()) if is_none else _scope(environment, variable)


def _scope(environment: Mapping[str, str], variable: str) -> Scope:
    hint = 'list globs, separated by commas, or "*" for all repositories'
    value = _required(environment, variable, hint)
    if not (patterns := _split_csv(value)):
        raise InvalidSetting(variable, value, hint)
    try:
        return Scope.parse(patterns)
    except InvalidPattern as error:
        raise InvalidSetting(variable, value, str(error)) from None


def _shortened(value: str) -> str:
    return value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}..."


def _split_csv(value: str) -> list[str]:
    return [item for part in value.split(",") if (item := part.strip(" "))]

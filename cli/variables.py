"""The settings of the plan: options, environment variables, and hints on misspelled ones. Pure."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from handler.policy.scope import ROLE_CHECK_PREFIX
from handler.settings import InvalidSetting, Mode, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# The function's environment variables, each with its option.
OPTIONS = {
    "WORKER_ROLE_ARNS": "--worker-role",
    "REPOSITORIES": "--repositories",
    "MODE": "--mode",
    "DESCRIBE_ROLE_ARNS": "--describe-role",
    "PULL_THROUGH_CACHE_REPOSITORIES": "--pull-through-cache-repositories",
    "REMOVE_UNLISTED_ROLES": "--remove-unlisted-roles",
}
_SIMILARITY = 0.86
# A plan writes nothing: it has no writes of its own to recognize, and checks no role.
WITHOUT_STACK = {
    "ROLE_NAME": "plan",
    "ROLE_CHECK_REPOSITORY": f"{ROLE_CHECK_PREFIX}plan",
    "POWERTOOLS_SERVICE_NAME": "plan",
}


def settings_from(options: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """Return the settings: options first, then the environment, then the defaults.

    Args:
        options: the options that were given, by the name of their variable.
        environment: the environment variables.

    Raises:
        InvalidSetting: names the option, if the value is from an option, and otherwise the variable.
    """
    given = {name: value for name in OPTIONS if (value := environment.get(name))} | dict(options)
    if given.get("MODE", "").strip().lower() == Mode.PLAN:
        given["MODE"] = Mode.ENFORCE.value  # what the function would do without the plan mode
    defaults = {"WORKER_ROLE_ARNS": "", "REPOSITORIES": "*", "MODE": Mode.ENFORCE.value}
    try:
        return Settings.from_environment(defaults | given | WITHOUT_STACK)
    except InvalidSetting as error:
        variable = str(error).partition(" ")[0]
        if variable == "WORKER_ROLE_ARNS" and not given.get(variable):
            raise NoWorkerRole from None
        if variable in options:
            raise InvalidOption(str(error).replace(variable, OPTIONS[variable], 1)) from None
        raise


class InvalidOption(ValueError):
    """The value of an option is wrong; the message names the option."""


class NoWorkerRole(ValueError):
    """No worker role is given."""

    def __init__(self) -> None:
        """Say how to give one."""
        super().__init__(
            "No worker role is given: add --worker-role with the ARN of the role that pulls, for example "
            "--worker-role arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
        )


def misspelled(names: Iterable[str]) -> dict[str, str]:
    """Return the variables that look like one of the function's and are not read, each with the right one."""
    return {
        name: right
        for name in names
        if name not in OPTIONS and (right := _similar(name)) and not name.startswith("AWS_")
    }


def option_for(word: str) -> str | None:
    """Return the option that an argument such as `WorkerRoleArns=…` means, as `sam` and `make` take it."""
    name, separator, _ = word.partition("=")
    if not separator:
        return None
    right = name if name in OPTIONS else _similar(name)
    return OPTIONS.get(right or "")


def _similar(name: str) -> str | None:
    plain = {_plain(each): each for each in OPTIONS}
    if right := plain.get(_plain(name)):
        return right
    if len(name) < len("REPOSITORIES") - 2:  # short names are similar to too many others
        return None
    close = get_close_matches(_plain(name), plain, n=1, cutoff=_SIMILARITY)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())

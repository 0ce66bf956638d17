"""The commands and their options."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import click
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from cli.console import print_error, print_warning
from cli.errors import CliError, sentence_of
from cli.variables import InvalidOption, NoWorkerRole, misspelled, option_for, settings_from
from handler.settings import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ERROR, INTERRUPTED = 1, 128 + signal.SIGINT
PROGRAM = "./ecr-allow-pull"
_USER_ERRORS = (CliError, InvalidSetting, InvalidOption, NoWorkerRole)
_AWS_ERRORS = (BotoCoreError, ClientError, ResponseParserError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code. An error is one sentence, and never a traceback."""
    try:
        return int(cli.main(arguments, PROGRAM, standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except click.UsageError as error:
        message = error.format_message().rstrip(".")
        print_error(f"{message}{'' if message.endswith(('?', ')')) else '.'} {_hint(error)}")
    except click.Abort:
        print_error("Stopped.")
        return INTERRUPTED
    except _USER_ERRORS as error:
        print_error(f"{str(error).rstrip('.')}.")
    except _AWS_ERRORS as error:
        print_error(sentence_of(error))
    except Exception as error:  # noqa: BLE001 - a user gets a sentence, also for a bug
        print_error(f"Unexpected {type(error).__name__}, a bug of this program: {error}. Open an issue.")
    return ERROR


def _hint(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else PROGRAM
    return f"See {path} --help."


def _shared(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that every command has."""
    options = (
        click.option("--profile", metavar="NAME", help="Profile with read access to the registry's account."),
        click.option("--region", metavar="REGION", help="AWS region, such as us-east-1."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    )
    for option in reversed(options):
        command = option(command)
    return command


# For each command: click asks the group only where the command runs below it, and remembers the answer.
_HELP = ["-h", "--help"]


@click.group(context_settings={"help_option_names": _HELP, "max_content_width": 100})
def cli() -> None:
    """Plan cross-account pull access to Amazon ECR, and diagnose denied pulls.

    Both commands only read: they refuse every call that could change something, whatever your credentials
    allow.
    """


@cli.command(context_settings={"help_option_names": _HELP})
@click.option(
    "--worker-role",
    "worker_roles",
    multiple=True,
    metavar="ARN[,ARN]",
    help="Role that pulls. Repeat the option, or separate ARNs by commas. [WORKER_ROLE_ARNS]",
)
@click.option(
    "--repositories",
    multiple=True,
    metavar="GLOB[,GLOB]",
    help="Repositories in scope; !GLOB excludes. Default: all. [REPOSITORIES]",
)
@click.option(
    "--mode",
    type=click.Choice(["enforce", "remove"], case_sensitive=False),
    help="Show what the function would attach, the default, or remove. [MODE]",
)
@click.option(
    "--describe-role",
    "describe_roles",
    multiple=True,
    metavar="ARN[,ARN]",
    help="Role that may list images. [DESCRIBE_ROLE_ARNS]",
)
@click.option(
    "--pull-through-cache-repositories",
    multiple=True,
    metavar="GLOB[,GLOB]",
    help="Repositories that worker roles may import images into. [PULL_THROUGH_CACHE_REPOSITORIES]",
)
@click.option(
    "--remove-unlisted-roles",
    is_flag=True,
    default=None,
    help="Show the removal of roles that are not configured. [REMOVE_UNLISTED_ROLES]",
)
@_shared
@click.argument("extra", nargs=-1, metavar="")
def plan(
    worker_roles: tuple[str, ...],
    repositories: tuple[str, ...],
    mode: str | None,
    describe_roles: tuple[str, ...],
    pull_through_cache_repositories: tuple[str, ...],
    remove_unlisted_roles: bool | None,  # noqa: FBT001 - an option
    profile: str | None,
    region: str | None,
    as_json: bool,  # noqa: FBT001 - an option
    extra: tuple[str, ...],
) -> int:
    """Show what the function would do to your registry.

    Needs nothing deployed. The names in brackets are environment variables, which the options override.

    \b
    Example:
      ./ecr-allow-pull plan --region us-east-1 \\
        --worker-role arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group

    \b
    Exit codes:
      0  nothing to do
      1  an error, or no repository was found or matched
      2  something would change
      3  nothing to write, but pulls stay denied
    """  # noqa: D301 - \b is for click
    from cli.plan.command import run  # noqa: PLC0415 - imported when needed, so that --help is quick

    _refuse_arguments(extra)
    given = {
        "WORKER_ROLE_ARNS": ",".join(worker_roles),
        "REPOSITORIES": ",".join(repositories),
        "MODE": mode or "",
        "DESCRIBE_ROLE_ARNS": ",".join(describe_roles),
        "PULL_THROUGH_CACHE_REPOSITORIES": ",".join(pull_through_cache_repositories),
        "REMOVE_UNLISTED_ROLES": "true" if remove_unlisted_roles else "",
    }
    for wrong, right in misspelled(os.environ).items():
        print_warning(f"The environment variable {wrong} is not read: the name is {right}")
    settings = settings_from({name: value for name, value in given.items() if value}, os.environ)
    return run(settings, profile, region or os.environ.get("AWS_REGION") or None, as_json=as_json)


@cli.command(context_settings={"help_option_names": _HELP})
@click.argument("image")
@click.option("--role", required=True, metavar="ARN", help="ARN of the role that pulls, with its path.")
@click.option(
    "--role-profile",
    metavar="NAME",
    help="Profile with read access to the role's account. Without it, the role's side stays unknown.",
)
@_shared
def diagnose(
    image: str,
    role: str,
    role_profile: str | None,
    profile: str | None,
    region: str | None,
    as_json: bool,  # noqa: FBT001 - an option
) -> int:
    """Find out why a role can't pull IMAGE, or that it can.

    Checks the registry's side and the role's side in order, and says what to change. IMAGE is the address
    that the node pulls. For an address without a registry, --region names the region.

    \b
    Example:
      ./ecr-allow-pull diagnose 111122223333.dkr.ecr.us-east-1.amazonaws.com/team/app:v1 \\
        --role arn:aws:iam::222222222222:role/worker --profile registry --role-profile data-plane

    \b
    Exit codes:
      0  the pull is allowed
      1  an error
      2  the pull is denied, or the image can't be pulled
      3  undecided: a condition or a missing permission
    """  # noqa: D301 - \b is for click
    from cli.diagnose.command import run  # noqa: PLC0415 - imported when needed, so that --help is quick

    return run(
        image, role, profile, role_profile, region or os.environ.get("AWS_REGION") or None, as_json=as_json
    )


def _refuse_arguments(extra: Sequence[str]) -> None:
    for word in extra:
        option = option_for(word)
        hint = f": use {option}" if option else ""
        raise click.UsageError(f"Unexpected argument {word!r}{hint}", click.get_current_context())

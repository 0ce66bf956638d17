"""Runs `diagnose`: from the arguments to the output and the exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from cli.access import Role
from cli.aws import Aws
from cli.console import console
from cli.diagnose.check import Verdict
from cli.diagnose.diagnosis import diagnose
from cli.diagnose.facts import OPTIONAL, Facts
from cli.diagnose.image import InvalidImage, parse_image
from cli.diagnose.registry_side import read_registry
from cli.diagnose.role_side import command, read_role
from cli.diagnose.view import show
from cli.errors import NO_REGION, CliError
from handler.policy.role_arn import role_arn_error

if TYPE_CHECKING:
    from cli.diagnose.check import Diagnosis

EXIT_CODES = {Verdict.ALLOWED: 0, Verdict.DENIED: 2, Verdict.UNDECIDED: 3}


def run(
    image: str, role: str, profile: str | None, role_profile: str | None, region: str | None, *, as_json: bool
) -> int:
    """Diagnose a pull and print the diagnosis; return the exit code.

    Raises:
        CliError: an argument is wrong, or AWS cannot be asked.
    """
    with console(stderr=True).status("Reading both sides"):
        facts = gather(image, role, profile, role_profile, region)
    diagnosis = diagnose(facts)
    if as_json:
        print(json.dumps(to_json(facts, diagnosis), indent=2))  # noqa: T201 - the output
    else:
        show(facts, diagnosis, console())
    return EXIT_CODES[diagnosis.verdict]


def gather(
    text: str, role_arn: str, profile: str | None, role_profile: str | None, region: str | None
) -> Facts:
    """Read both sides of a pull.

    Raises:
        CliError: an argument is wrong, or AWS cannot be asked.
    """
    if error := role_arn_error(role_arn):
        raise CliError(f"--role is {role_arn!r}, which {error}.")
    try:
        image = parse_image(text)
    except InvalidImage as error:
        raise CliError(f"{error}.") from None
    role = Role(role_arn)
    registry_aws = Aws(profile, region)
    if not registry_aws.region and image.region:
        registry_aws = Aws(profile, image.region)
    completed = not image.host
    if completed:
        if not registry_aws.region:
            raise CliError(NO_REGION)
        image = replace(image, account=registry_aws.account, region=registry_aws.region)
    _check_partition(registry_aws, role, image.region)
    if registry_aws.account != image.account:
        raise CliError(
            f"The credentials are for account {registry_aws.account}, and the image is in the registry of "
            f"account {image.account}: use --profile with a profile of that account."
        )
    other_regions = [registry_aws.region] if registry_aws.region not in {None, image.region} else []
    registry = read_registry(registry_aws, image, [each for each in other_regions if each])
    facts = Facts(image, role, registry, completed=completed)
    facts = replace(facts, role_command=command(role, [*facts.needed, OPTIONAL]))
    role_aws = _role_aws(role, role_profile, registry_aws, image.region)
    if role_aws is None:
        return facts
    known, side = read_role(role_aws, role, facts.needed, facts.repository_arn)
    return replace(facts, role=known, role_side=side)


def to_json(facts: Facts, diagnosis: Diagnosis) -> dict[str, object]:
    """Return the diagnosis for machines."""
    return {
        "image": facts.image.address(),
        "account": facts.image.account,
        "region": facts.image.region,
        "repository": facts.image.repository,
        "role": facts.role.arn,
        "verdict": diagnosis.verdict.value,
        "reason": diagnosis.reason,
        "checks": [check.details() for check in diagnosis.checks],
    }


def _role_aws(role: Role, role_profile: str | None, registry_aws: Aws, region: str) -> Aws | None:
    """Return the access to the role's account: a profile's, or that of the registry in the same account."""
    if role_profile is None:
        return registry_aws if registry_aws.account == role.account else None
    aws = Aws(role_profile, region)
    if aws.account != role.account:
        raise CliError(
            f"The credentials of --role-profile are for account {aws.account}, and the role is in account "
            f"{role.account}: use a profile of that account."
        )
    return aws


def _check_partition(aws: Aws, role: Role, region: str) -> None:
    partition = aws.partition(region)
    if partition and partition != role.partition:
        raise CliError(
            f"{role.arn} is a role of the partition {role.partition}, and {region} is in {partition}: a role "
            "of another partition can never pull."
        )

"""Checks the processed template against AWS's published schemas and permissions. Part of `make audit`.

- cfn-lint compares each resource with the schema that CloudFormation publishes, in every supported region.
- policy_sentry contains AWS's service authorization reference. Each permission must exist, and its resource
  must be of a type that the action supports. Each action in `samples/` must exist too.

Both packages contain the data, so this script needs no internet access.
"""

import json
import sys
from collections.abc import Iterator

from cfnlint.api import lint
from cfnlint.config import ManualArgs
from cfnlint.helpers import REGIONS
from policy_sentry.querying.actions import get_action_data

from devstack.host import PROJECT
from handler.policy.grants import ACTIONS
from scripts.permissions_page import Permission, as_list, permissions
from scripts.processed_template import processed_template

# The beginnings of the names of regions in partitions that the template doesn't support.
_UNSUPPORTED_REGIONS = ("us-iso", "eu-iso", "eusc-")
# What `!GetAtt NAME.Arn` begins with, in the form of AWS's service authorization reference.
_ARNS = {
    "AWS::ECR::Repository": "arn:${Partition}:ecr:${Region}:${Account}:repository/",
    "AWS::Lambda::Function": "arn:${Partition}:lambda:${Region}:${Account}:function:",
    "AWS::Logs::LogGroup": "arn:${Partition}:logs:${Region}:${Account}:log-group:",
    "AWS::SQS::Queue": "arn:${Partition}:sqs:${Region}:${Account}:",
}
_PSEUDO_PARAMETERS = {
    "${AWS::Partition}": "${Partition}",
    "${AWS::Region}": "${Region}",
    "${AWS::AccountId}": "${Account}",
}


def main() -> int:
    """Print each problem. Return the exit code, 1 if there is any."""
    template = processed_template()
    types = {name: resource["Type"] for name, resource in template["Resources"].items()}
    regions = [region for region in REGIONS if not region.startswith(_UNSUPPORTED_REGIONS)]
    problems = [
        f"{match.rule.id} {match.message} ({'/'.join(map(str, match.path or ()))})"
        for match in lint(json.dumps(template), config=ManualArgs(regions=regions, include_checks=["I3510"]))
    ]
    for permission in permissions():
        problems += permission_problems(permission, types)
    problems += [
        f"{path.name} names {action}, which is not an action of AWS"
        for path in sorted(PROJECT.glob("samples/*.json"))
        for statement in json.loads(path.read_text()).get("Statement", [])
        for action in as_list(statement["Action"])
        if not _rows(action)
    ]
    granted = (action for actions in ACTIONS.values() for action in actions)
    problems += [f"the grant of {action} is not an action of AWS" for action in granted if not _rows(action)]
    for problem in problems:
        print(f"template.yaml: {problem}", file=sys.stderr)  # noqa: T201 - the script's output
    return int(bool(problems))


def permission_problems(permission: Permission, types: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with a permission; `types` are the resources' types by logical id."""
    supported = {row["resource_arn_format"] for row in _rows(permission.action)}
    if not supported:
        yield f"{permission.logical_id} allows {permission.action}, which is not an action of AWS"
        return
    for resource in permission.resource.split("; in plan mode "):
        arn = _ARNS.get(types.get(resource, ""), resource)
        for pseudo_parameter, name in _PSEUDO_PARAMETERS.items():
            arn = arn.replace(pseudo_parameter, name)
        if arn == "*":
            valid = supported == {"*"}  # otherwise the permission can be narrower
        else:
            valid = any(each.startswith(arn.removesuffix("*")) for each in supported)
        if not valid:
            allowed = f"{permission.logical_id} allows {permission.action} on {arn}"
            yield f"{allowed}: AWS supports {sorted(supported)}"


def _rows(action: str) -> list[dict[str, str]]:
    """Return AWS's data about an action: a row for each type of resource that the action supports."""
    service, _, name = action.partition(":")
    rows: list[dict[str, str]] = (get_action_data(service, name) or {}).get(service, [])
    return [row for row in rows if row["action"] == action]


if __name__ == "__main__":
    sys.exit(main())

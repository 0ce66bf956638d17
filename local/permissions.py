"""The page of permissions: each that the template gives, to whom, on what, and why. `make docs` writes it."""

from collections.abc import Iterator
from typing import Any

from samtranslator.yaml_helper import yaml_parse

from local.machine import PROJECT

PAGE = PROJECT / "docs/permissions.md"

# Of what no permission may be without.
_REASONS = {
    ("Role", "ecr:DescribeRepositories"): "a sweep lists the repositories",
    ("Role", "ecr:GetRepositoryPolicy"): "a check reads the policy",
    ("Role", "ecr:SetRepositoryPolicy"): "a check writes the policy if the grant is missing",
    ("Role", "logs:CreateLogStream"): "each instance of the function has a stream in its log",
    ("Role", "logs:PutLogEvents"): "the function logs; its metrics are in the log too",
    ("Role", "sqs:SendMessage"): "Lambda keeps what failed three times, with the function's role",
    ("Role", "xray:PutTraceSegments"): "active tracing",
    ("Role", "xray:PutTelemetryRecords"): "active tracing",
    (
        "HandOver",
        "lambda:InvokeFunction",
    ): "a sweep that nears the time limit hands the rest to a new invocation",
    ("ScheduleRole", "lambda:InvokeFunction"): "the schedule starts a sweep",
    ("ScheduleRole", "sqs:SendMessage"): "the schedule keeps what it could not deliver",
}
_HOLDERS = {
    "Role": "the function",
    "HandOver": "the function",
    "ScheduleRole": "the schedule",
}
_INTRODUCTION = """\
<!-- Written by `make docs` from template.yaml; a test compares them. -->
# Permissions

What the stack's roles may do, and why. Nobody else gets a permission from this stack, but for these two:
the four rules may invoke the function, each by its own ARN; and the same rules may send what they cannot
deliver to the queue. No role can change IAM, read an image or push one.

An end-to-end test takes each of these away from the deployed stack, with IAM enforced, and sees something
break; where the embedded AWS does not enforce a permission, the test says so.

| who | may | on | because |
|---|---|---|---|
"""


def page() -> str:
    """Write the page.

    Raises:
        KeyError: a permission in the template has no reason here, or a reason no permission.
    """
    given = list(_given())
    if spare := _REASONS.keys() - {(holder, action) for holder, action, _ in given}:
        raise KeyError(f"no permission for these reasons: {sorted(spare)}")
    rows = (
        f"| {_HOLDERS[holder]} | `{action}` | `{on}` | {_REASONS[holder, action]} |\n"
        for holder, action, on in given
    )
    return _INTRODUCTION + "".join(rows)


def _given() -> Iterator[tuple[str, str, str]]:
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    for name, resource in template["Resources"].items():
        properties = resource["Properties"]
        match resource["Type"]:
            case "AWS::IAM::Role":
                policies = properties["Policies"]
            case "AWS::IAM::Policy":
                policies = [properties]
            case _:
                continue
        for policy in policies:
            for statement in policy["PolicyDocument"]["Statement"]:
                for action in _listed(statement["Action"]):
                    yield name, action, _resource(statement["Resource"])


def _resource(value: Any) -> str:  # noqa: ANN401 - it is CloudFormation's
    match value:
        case {"Fn::GetAtt": [name, "Arn"]} | {"Fn::GetAtt": str(name)}:
            return str(name).removesuffix(".Arn")
        case {"Fn::Sub": text}:
            return str(text)
    return str(value)


def _listed(value: Any) -> list[str]:  # noqa: ANN401 - it is CloudFormation's
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    PAGE.write_text(page())

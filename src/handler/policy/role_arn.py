"""The ARN of an IAM role: its form, and what people enter instead."""

import re

EXAMPLE_ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
# The form of an IAM role's ARN: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
# A path may hold any character from ! to ~. Not accepted are those that mean something else here, in JSON or
# in CloudFormation: a comma, a wildcard, a quote, a backslash, a brace and a second ARN. The patterns in the
# template accept the same.
_ROLE = re.compile(
    r"(?!.*arn:.*arn:)arn:(?P<partition>aws(?:-[a-z]+)*):iam::[0-9]{12}:role/"
    r"(?:[!#-)+\-->@-Z\[\]^-z|~]*/)?[A-Za-z0-9_+=.@-]{1,64}"
)
# What people enter instead, each with a hint.
_COMMON_MISTAKES = {
    r"arn:.*arn:.*": "is more than one ARN; separate the worker roles by commas",
    r".*[*?].*": (
        "is a wildcard, which would grant the pull to others too; list each worker role by its own ARN"
    ),
    r"arn:(?P<partition>[^:]+):sts::(?P<account>[0-9]{12}):assumed-role/(?P<name>[^/]+)(?:/.*)?": (
        "is a session of a role, not the role; use arn:{partition}:iam::{account}:role/{name} (with the path "
        "before the name, if the role has one)"
    ),
    r"arn:(?P<partition>[^:]+):iam::(?P<account>[0-9]{12}):instance-profile/(?P<name>.+)": (
        "is an instance profile; use the ARN of its role, probably arn:{partition}:iam::{account}:role/{name}"
    ),
    r"arn:[^:]+:iam::[0-9]{12}:user/.+": (
        f"is an IAM user; use the role that the worker nodes run under, for example {EXAMPLE_ROLE}"
    ),
    r"[0-9]{12}|arn:[^:]+:iam::[0-9]{12}:root": (
        f"is a whole account; use the worker role in the account, for example {EXAMPLE_ROLE}"
    ),
    r"(?P<name>[A-Za-z0-9_+=.@-]{1,64})": (
        "is only a name; use the role's full ARN, arn:aws:iam::ACCOUNT:role/{name} with the data plane's "
        "account"
    ),
}


def role_arn_error(value: str, partition: str | None = None) -> str | None:
    """Return what is wrong with a value that should be a role's ARN and how to fix it; None if it is one.

    A role of another partition than the registry's, if that is known, can never be a principal.
    """
    if match := _ROLE.fullmatch(value):
        if partition in {None, match["partition"]}:
            return None
        return (
            f"is a role of partition {match['partition']}, and the registry is in {partition}: "
            f"list roles of partition {partition}"
        )
    for mistake, hint in _COMMON_MISTAKES.items():
        if match := re.fullmatch(mistake, value):
            return hint.format_map(match.groupdict())
    return f"is not the ARN of an IAM role; it should look like {EXAMPLE_ROLE}"

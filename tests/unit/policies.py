"""Example roles, statements and policies."""

from typing import Any

A, B, C = (f"arn:aws:iam::222222222222:role/unionai-{name}-flyteworker-node-group" for name in "abc")
CI = "arn:aws:iam::444444444444:role/ci"
VENDOR = "arn:aws:iam::444444444444:role/vendor"
ROLES = [f"arn:aws:iam::222222222222:role/unionai-{n:02}-flyteworker-node-group" for n in range(50)]
PULL = ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"]

type Policy = dict[str, Any]


def allow(sid: str, action: object, *principals: str) -> Policy:
    """Return a statement that allows the principals an action."""
    return {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": list(principals)}, "Action": action}


def grant(*roles: str, sid: str = "AllowPull") -> Policy:
    """Return our statement for the roles."""
    return allow(sid, PULL, *roles)


def push(*principals: str, sid: str = "Push") -> Policy:
    """Return a foreign statement."""
    return allow(sid, "ecr:PutImage", *principals)


def document(*statements: Policy) -> Policy:
    """Return a policy of the statements."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


FOREIGN_POLICY = document(push("arn:aws:iam::444444444444:root"))
DENY: Policy = {"Sid": "NoPulls", "Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGet*"}

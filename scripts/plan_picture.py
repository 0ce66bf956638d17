"""Generates docs/plan.svg: what `plan` prints, for a sample registry on the fake AWS."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import boto3
from rich.console import Console

from cli.aws import refuse_other_calls
from cli.plan.progress import NoProgress
from cli.plan.run import Stop, make_plan
from cli.plan.view import show
from cli.variables import settings_from
from devstack.fake_aws import FakeAws
from devstack.fake_ecr import READ, REGION, EcrError, FakeEcr
from devstack.host import PROJECT
from devstack.picture import WIDTH, svg

if TYPE_CHECKING:
    from cli.plan.result import Plan

PICTURE = PROJECT / "docs/plan.svg"
_ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
_TRAIL = {
    "Name": "audit",
    "TrailARN": f"arn:aws:cloudtrail:{REGION}:111122223333:trail/audit",
    "HomeRegion": REGION,
    "IsMultiRegionTrail": True,
    "IsOrganizationTrail": True,
}
_GRANT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": _ROLE},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
}
_ACCOUNT = {
    "Sid": "Partner",
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::222222222222:root"},
    "Action": "ecr:*",
}
_DENY = {
    "Sid": "OnlyFromVpc",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "ecr:BatchGetImage",
    "Condition": {"StringNotEquals": {"aws:SourceVpc": "vpc-0a1b2c3d"}},
}
_NOT_READABLE = EcrError(
    "AccessDeniedException",
    "not authorized to perform: ecr:GetRepositoryPolicy with an explicit deny in a resource-based policy",
)


def picture() -> str:
    """Return the picture as an SVG."""
    with FakeAws(trails=[_TRAIL]).serving() as aws:
        _create_repositories(aws.ecr)
        plan = _plan(aws.url)
    console = Console(file=StringIO(), record=True, width=WIDTH, highlight=False)
    console.print(f"$ ./ecr-allow-pull plan --worker-role {_ROLE}")
    show(plan, console)
    return svg(console, "ecr-allow-pull plan")


def _create_repositories(ecr: FakeEcr) -> None:
    ecr.create_role(_ROLE)
    granted = {"Version": "2012-10-17", "Statement": [_GRANT]}
    names = [f"{team}/app-{number}" for team in ("ml", "platform", "web") for number in range(130)]
    ecr.create_repository(*names, policy=granted)
    ecr.create_repository(*(f"ml/train-{number:02}" for number in range(1, 17)), "web/checkout")
    ecr.create_repository("ml/shared", policy={"Version": "2012-10-17", "Statement": [_ACCOUNT]})
    ecr.create_repository("web/vault", policy={"Version": "2012-10-17", "Statement": [_GRANT, _DENY]})
    ecr.create_repository("security/scanner")
    ecr.inject_faults(READ, _NOT_READABLE, repository="security/scanner")


def _plan(endpoint: str) -> Plan:
    session = boto3.Session("x", "x", region_name=REGION)
    ecr = session.client("ecr", endpoint_url=endpoint)
    cloudtrail = session.client("cloudtrail", endpoint_url=endpoint)
    refuse_other_calls(ecr)
    refuse_other_calls(cloudtrail)
    return make_plan(settings_from({"WORKER_ROLE_ARNS": _ROLE}, {}), ecr, cloudtrail, Stop(), NoProgress())


if __name__ == "__main__":
    PICTURE.write_text(picture())

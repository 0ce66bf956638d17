"""Generates docs/plan.svg: what `make plan` prints, for a sample registry on the fake ECR."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from devstack.fake_ecr import READ, EcrError, FakeEcr
from devstack.host import PROJECT
from devstack.picture import WIDTH, svg
from handler.settings import Settings
from scripts.plan import WITHOUT_STACK, Stop, make_plan
from scripts.plan_client import refuse_other_calls
from scripts.plan_view import show

if TYPE_CHECKING:
    from scripts.plan_result import Plan

PICTURE = PROJECT / "docs/plan.svg"
_ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
_GRANT = {
    "Sid": "AllowPull",
    "Effect": "Allow",
    "Principal": {"AWS": _ROLE},
    "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
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
    with FakeEcr().serving() as ecr:
        _create_repositories(ecr)
        plan = _plan(ecr)
    console = Console(file=StringIO(), record=True, width=WIDTH, highlight=False)
    console.print(f"$ make plan WORKER_ROLE_ARNS={_ROLE}")
    show(plan, console)
    return svg(console, "make plan")


def _create_repositories(ecr: FakeEcr) -> None:
    ecr.create_role(_ROLE)
    granted = {"Version": "2012-10-17", "Statement": [_GRANT]}
    names = [f"{team}/app-{number}" for team in ("ml", "platform", "web") for number in range(130)]
    ecr.create_repository(*names, policy=granted)
    ecr.create_repository(*(f"ml/train-{number:02}" for number in range(1, 17)), "web/checkout")
    ecr.create_repository("web/vault", policy={"Version": "2012-10-17", "Statement": [_GRANT, _DENY]})
    ecr.create_repository("security/scanner")
    ecr.inject_faults(READ, _NOT_READABLE, repository="security/scanner")


def _plan(ecr: FakeEcr) -> Plan:
    client = ecr.client()
    refuse_other_calls(client)
    return make_plan(
        Settings.from_environment({"WORKER_ROLE_ARNS": _ROLE, "REPOSITORIES": "*"} | WITHOUT_STACK),
        client,
        Stop(),
    )


if __name__ == "__main__":
    PICTURE.write_text(picture())

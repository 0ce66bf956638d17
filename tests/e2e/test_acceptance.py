"""Tests of `make acceptance`: it runs on the embedded AWS, which is an AWS to it, with a broken template."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.aws import LocalAws, clean_environment, local_aws
from devstack.host import PROJECT

BREAKS = {
    "no permission": ("- ecr:DescribeRepositories", "- ecr:ListImages"),
    "wrong pattern": ("eventName: [SetRepositoryPolicy, DeleteRepositoryPolicy]", "eventName: [SetPolicy]"),
    "no retry": ("MaximumRetryAttempts: 2", "MaximumRetryAttempts: 0"),
}
FAILING = {
    "test_with_a_star_reconciles_every_repository",
    "test_policy_overwritten",
    "test_with_invalid_input_is_retried_then_sent_to_the_dead_letter_queue",
}
PASSING = {"test_repository_created_by_api_call", "test_settled_policy_is_not_written_again"}


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with local_aws(stack_events=True) as aws:
        trail = {"Name": "all", "S3BucketName": "trail", "IsMultiRegionTrail": True}
        aws.client("s3").create_bucket(Bucket="trail")
        aws.client("cloudtrail").create_trail(**trail)
        aws.client("cloudtrail").start_logging(Name="all")
        aws.ecr().create_repository(repositoryName="of-another-team/app")
        yield aws


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project whose template has three defects."""
    copy = tmp_path_factory.mktemp("broken") / "project"
    ignored = shutil.ignore_patterns(".*", "mutants", "__pycache__", "acceptance-report.*")
    shutil.copytree(PROJECT, copy, ignore=ignored)
    (copy / ".tools").symlink_to(PROJECT / ".tools")
    template = (copy / "template.yaml").read_text()
    for before, after in BREAKS.values():
        assert template.count(before) == 1
        template = template.replace(before, after)
    (copy / "template.yaml").write_text(template)
    return copy


def start(project: Path, aws: LocalAws, *names: str) -> subprocess.Popen[str]:
    """Start the acceptance run with some of the promises."""
    selected = f"-k '{' or '.join(names)}' -p no:cacheprovider"
    return subprocess.Popen(
        [sys.executable, "-m", "acceptance", "--yes"],
        cwd=project,
        env=clean_environment() | aws.environment() | {"PYTEST_ADDOPTS": selected},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def report(project: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((project / "acceptance-report.json").read_text())
    return document


def names_of_everything(aws: LocalAws) -> list[str]:
    """Return what a run creates: stacks, repositories, roles, queues, log groups and buckets."""
    listed = [
        *aws.cloudformation().describe_stacks()["Stacks"],
        *aws.ecr().describe_repositories()["repositories"],
        *aws.iam().list_roles()["Roles"],
        *aws.logs().describe_log_groups()["logGroups"],
        *aws.client("s3").list_buckets()["Buckets"],
        *aws.events().list_rules()["Rules"],
    ]
    keys = ("StackName", "repositoryName", "RoleName", "logGroupName", "Name")
    names = [next(str(each[key]) for key in keys if key in each) for each in map(dict, listed)]
    return sorted([*names, *aws.sqs().list_queues().get("QueueUrls", [])])


def test_a_broken_stack_fails_the_promises_that_it_breaks_and_everything_is_deleted(
    aws: LocalAws, project: Path
) -> None:
    before = names_of_everything(aws)

    with start(project, aws, *FAILING, *PASSING) as process:
        output, _ = process.communicate()

    promises = report(project)["promises"]
    outcomes = {
        outcome: {each["test"].rpartition("::")[2] for each in promises if each["outcome"] == outcome}
        for outcome in ("failed", "passed")
    }
    assert outcomes == {"failed": FAILING, "passed": PASSING}, output
    assert process.returncode == 1
    assert names_of_everything(aws) == before
    assert "delay:created" in [fact["name"] for fact in report(project)["facts"]]


def test_an_interrupted_run_deletes_everything(aws: LocalAws, project: Path) -> None:
    before = names_of_everything(aws)

    with start(project, aws, *PASSING) as process:
        while names_of_everything(aws) == before:
            assert process.poll() is None
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate()

    assert process.returncode == 128 + signal.SIGINT, output
    assert "Stopped." in output
    assert names_of_everything(aws) == before
    assert report(project)["interrupted"] is True

"""Tests the deployed stack: grants, manual invocations, continuations and settings."""

import json
import time

import pytest

from devstack import data_plane
from devstack.aws import STACK, LocalAwsError
from tests.e2e.conftest import ALLOW_PULL, FOREIGN, Stack


@pytest.mark.parametrize("repository", ["api-created/app", "docker-hub/library/alpine"])
def test_new_repository_becomes_pullable_from_the_data_plane_account(stack: Stack, repository: str) -> None:
    stack.create_repository(repository)
    assert data_plane.pull_error(stack.worker, repository) is not None

    data_plane.push(stack.registry, repository)
    stack.wait_until(lambda: data_plane.pull_error(stack.worker, repository) is None)

    assert stack.statements(repository) == [ALLOW_PULL]


def test_foreign_statement_stays_unchanged(stack: Stack) -> None:
    stack.create_repository("with-a-policy/app", FOREIGN)

    stack.wait_for_statements("with-a-policy/app", FOREIGN, ALLOW_PULL)


def test_worker_also_needs_its_identity_policy(stack: Stack) -> None:
    stack.create_repository("both-sides/app")
    data_plane.push(stack.registry, "both-sides/app")
    stack.wait_for_statements("both-sides/app", ALLOW_PULL)

    with data_plane.without_identity_policy(stack.aws):
        assert data_plane.pull_error(stack.worker, "both-sides/app") is not None

    assert data_plane.pull_error(stack.worker, "both-sides/app") is None


class TestManualInvocation:
    def test_with_a_star_reconciles_every_repository(self, stack: Stack) -> None:
        with stack.only_rules():
            stack.create_repository("missed/app")

            event = ["--event-file", "events/rerun-all.json"]
            output = stack.aws.sam("remote", "invoke", "--stack-name", STACK, *event)

        report, _ = json.JSONDecoder().raw_decode(output, output.index('{"checked"'))
        added = {"AllowPull": [data_plane.ROLE_ARN]}
        attached = {"repository": "missed/app", "outcome": "attached", "added": added}
        assert attached in report["repositories"]
        assert stack.statements("missed/app") == [ALLOW_PULL]

    def test_with_dry_run_writes_nothing(self, stack: Stack) -> None:
        with stack.only_rules():
            stack.create_repository("dry-run/app")

            report = stack.invoke({"repositories": ["dry-run/*"], "dry_run": True})

        assert report["outcomes"] == {"would_attach": 1}
        assert stack.statements("dry-run/app") == []

    def test_reports_a_glob_that_matches_nothing(self, stack: Stack) -> None:
        assert stack.invoke({"repositories": ["no-such/*"]})["unmatched"] == ["no-such/*"]

    def test_with_an_invalid_payload_fails_with_an_example(self, stack: Stack) -> None:
        response = stack.invoke({"repository": "team/app"})

        assert '{"repositories": ["team/app", "ml/*"], "dry_run": true}' in response["errorMessage"]


def test_sweep_near_its_timeout_continues_in_new_invocations_until_done(stack: Stack) -> None:
    with stack.only_rules(), stack.many_repositories("many") as names, stack.timeout(2):
        first = stack.invoke({"repositories": ["many/*"]})
        for name in names:
            stack.wait_for_statements(name, ALLOW_PULL)

    assert first["continued"] is True
    assert 0 < first["checked"] < len(names)


class TestSettings:
    def test_invalid_setting_is_an_error_with_a_hint(self, stack: Stack) -> None:
        with stack.environment(WORKER_ROLE_ARNS="arn:aws:sts::222222222222:assumed-role/node-group/i-1"):
            response = stack.invoke({})

        assert response["errorMessage"].startswith("WORKER_ROLE_ARNS is ")
        assert "arn:aws:iam::222222222222:role/node-group" in response["errorMessage"]

    def test_plan_mode_never_writes(self, stack: Stack) -> None:
        with stack.environment(MODE="plan"):
            since = time.time()
            stack.create_repository("planned/app")
            stack.wait_until(
                lambda: {"would_attach": 1} in [report["outcomes"] for report in stack.reports(since)]
            )

            assert stack.statements("planned/app") == []

    def test_unlisted_role_is_removed_only_with_remove_unlisted_roles(self, stack: Stack) -> None:
        unlisted = data_plane.create_role_alone(stack.aws, "unionai-acme-retired")
        with stack.only_rules():
            stack.create_repository(
                "removed/app", ALLOW_PULL | {"Principal": {"AWS": [unlisted, data_plane.ROLE_ARN]}}
            )

            assert stack.invoke({"repositories": ["removed/app"]})["outcomes"] == {"unchanged": 1}
            with stack.environment(REMOVE_UNLISTED_ROLES="true"):
                report = stack.invoke({"repositories": ["removed/app"]})

        assert report["repositories"] == [
            {"repository": "removed/app", "outcome": "attached", "removed": {"AllowPull": [unlisted]}}
        ]
        assert stack.statements("removed/app") == [ALLOW_PULL]

    def test_missing_role_is_named_on_the_first_event_and_granted_once_it_exists(self, stack: Stack) -> None:
        missing = f"arn:aws:iam::{data_plane.DATA_PLANE_ACCOUNT}:role/created-later"
        both_roles = f"{data_plane.ROLE_ARN},{missing}"
        with stack.environment(WORKER_ROLE_ARNS=both_roles):
            since = time.time()
            stack.create_repository("missing/app")
            stack.wait_until(lambda: missing in [line.get("role") for line in stack.log_lines(since)])
            assert stack.statements("missing/app") == [ALLOW_PULL]

        data_plane.create_role_alone(stack.aws, "created-later")
        with stack.environment(WORKER_ROLE_ARNS=both_roles):  # a new process, which asks again
            report = stack.invoke({"repositories": ["missing/app"]})

        assert report["repositories"][0]["added"] == {"AllowPull": [missing]}

    def test_invalid_parameter_fails_the_deployment(self, stack: Stack) -> None:
        with pytest.raises(LocalAwsError, match="Mode"):
            stack.aws.deploy({"WorkerRoleArns": data_plane.ROLE_ARN, "Mode": "maybe"}, stack="wrong-mode")


class TestOtherGrants:
    def test_the_operator_proxy_lists_images_only_after_the_grant(self, stack: Stack) -> None:
        operator_proxy = data_plane.create_operator_proxy_role(stack.aws)
        with stack.only_rules():
            stack.create_repository("described/app")
            assert data_plane.describe_error(operator_proxy, "described/app") is not None

            with stack.environment(DESCRIBE_ROLE_ARNS=data_plane.OPERATOR_PROXY_ROLE_ARN):
                report = stack.invoke({"repositories": ["described/app"]})

        assert report["repositories"][0]["added"] == {
            "AllowDescribeImages": [data_plane.OPERATOR_PROXY_ROLE_ARN],
            "AllowPull": [data_plane.ROLE_ARN],
        }
        assert data_plane.describe_error(operator_proxy, "described/app") is None

    def test_a_repository_that_ecr_creates_has_the_grants_of_the_creation_template_at_once(
        self, stack: Stack
    ) -> None:
        role = "arn:aws:iam::222222222222:role/of-the-template"
        parameters = {
            "WorkerRoleArns": role,
            "DescribeRoleArns": role,
            "PullThroughCacheRepositories": "docker-hub/*",
            "CreationTemplatePrefix": "docker-hub",
            "RolePath": "/team/ecr/",
        }
        with stack.only_rules():
            outputs = stack.aws.deploy(parameters, stack="template")
            try:
                stack.create_repository("docker-hub/templated/app")
                at_once = stack.statements("docker-hub/templated/app")
                response = stack.aws.lambda_().invoke(
                    FunctionName=outputs["FunctionName"],
                    Payload=json.dumps({"repositories": ["docker-hub/templated/app"]}),
                )
            finally:
                stack.aws.cloudformation().delete_stack(StackName="template")
                stack.aws.cloudformation().get_waiter("stack_delete_complete").wait(StackName="template")

        sids = [statement["Sid"] for statement in at_once if isinstance(statement, dict)]
        assert sids == ["AllowPull", "AllowDescribeImages", "AllowPullThroughCache"]
        assert json.loads(response["Payload"].read())["outcomes"] == {"unchanged": 1}

    def test_the_registry_policy_that_denies_the_pull_is_reported(self, stack: Stack) -> None:
        statement = {"Sid": "No", "Effect": "Deny", "Principal": "*", "Action": "ecr:*", "Resource": "*"}
        text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        stack.registry.put_registry_policy(policyText=text)
        try:
            report = stack.invoke({"repositories": ["no-such/app"]})
        finally:
            stack.registry.delete_registry_policy()

        assert report["registry_policy"]["status"] == "denies"
        assert stack.invoke({"repositories": ["no-such/app"]})["registry_policy"] == {"status": "silent"}

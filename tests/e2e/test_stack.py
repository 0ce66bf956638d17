"""Tests the deployed stack: grants, manual invocations, continuations and settings."""

import json
import time

import pytest
from botocore.exceptions import ClientError

from devstack import data_plane
from devstack.target import SamError
from tests.e2e.conftest import Stack, allow_pull, equal_form


@pytest.mark.parametrize(
    "name",
    [
        "api-created/app",
        pytest.param(
            "docker-hub/library/alpine",
            marks=pytest.mark.embedded("needs a pull-through cache and its upstream"),
        ),
    ],
)
def test_new_repository_becomes_pullable_by_the_worker_role(stack: Stack, name: str) -> None:
    repository, account = stack.named(name), stack.aws.account
    stack.create_repository(repository)
    assert data_plane.pull_error(stack.worker, repository, account) is not None

    data_plane.push(stack.registry, repository)
    stack.wait_until(lambda: data_plane.pull_error(stack.worker, repository, account) is None)

    assert stack.statements(repository) == [stack.allow_pull]


@pytest.mark.trail
def test_foreign_statement_stays_unchanged(stack: Stack) -> None:
    repository = stack.named("with-a-policy/app")
    stack.create_repository(repository, stack.foreign)

    stack.wait_for_statements(repository, stack.foreign, stack.allow_pull)


@pytest.mark.embedded("needs a second account")
def test_worker_also_needs_its_identity_policy(stack: Stack) -> None:
    stack.create_repository("both-sides/app")
    data_plane.push(stack.registry, "both-sides/app")
    stack.wait_for_statements("both-sides/app", stack.allow_pull)

    with data_plane.without_identity_policy(stack.aws):
        assert data_plane.pull_error(stack.worker, "both-sides/app") is not None

    assert data_plane.pull_error(stack.worker, "both-sides/app") is None


class TestManualInvocation:
    def test_with_a_star_reconciles_every_repository(self, stack: Stack) -> None:
        missed = stack.named("missed/app")
        with stack.only_rules():
            stack.create_repository(missed)

            event = ["--event-file", "events/rerun-all.json"]
            output = stack.aws.sam("remote", "invoke", "Function", "--stack-name", stack.aws.stack, *event)

        report, _ = json.JSONDecoder().raw_decode(output, output.index('{"checked"'))
        added = {"AllowPull": [stack.role]}
        attached = {"repository": missed, "outcome": "attached", "added": added}
        assert attached in report["repositories"]
        assert stack.statements(missed) == [stack.allow_pull]

    def test_with_dry_run_writes_nothing(self, stack: Stack) -> None:
        repository = stack.named("dry-run/app")
        with stack.only_rules():
            stack.create_repository(repository)

            report = stack.invoke({"repositories": [stack.named("dry-run/*")], "dry_run": True})

        assert report["outcomes"] == {"would_attach": 1}
        assert stack.statements(repository) == []

    def test_reports_a_glob_that_matches_nothing(self, stack: Stack) -> None:
        glob = stack.named("no-such/*")

        assert stack.invoke({"repositories": [glob]})["unmatched"] == [glob]

    def test_with_an_invalid_payload_fails_with_an_example(self, stack: Stack) -> None:
        response = stack.invoke({"repository": "team/app"})

        assert '{"repositories": ["team/app", "ml/*"], "dry_run": true}' in response["errorMessage"]


def test_sweep_near_its_timeout_continues_in_new_invocations_until_done(stack: Stack) -> None:
    with stack.only_rules(), stack.long_sweep("many") as names:
        first = stack.invoke({"repositories": [stack.named("many/*")]})
        for name in names:
            stack.wait_for_statements(name, stack.allow_pull)

    assert first["continued"] is True
    assert 0 < first["checked"] < len(names)


class TestSettings:
    def test_invalid_setting_is_an_error_with_a_hint(self, stack: Stack) -> None:
        with stack.environment(WORKER_ROLE_ARNS="arn:aws:sts::222222222222:assumed-role/node-group/i-1"):
            response = stack.invoke({})

        assert response["errorMessage"].startswith("WORKER_ROLE_ARNS is ")
        assert "arn:aws:iam::222222222222:role/node-group" in response["errorMessage"]

    def test_plan_mode_never_writes(self, stack: Stack) -> None:
        repository = stack.named("planned/app")
        with stack.environment(MODE="plan"):
            since = time.time()
            stack.create_repository(repository)
            data_plane.push(stack.registry, repository)
            stack.wait_until(
                lambda: {"would_attach": 1} in [report["outcomes"] for report in stack.reports(since)]
            )

            assert stack.statements(repository) == []

    def test_unlisted_role_is_removed_only_with_remove_unlisted_roles(self, stack: Stack) -> None:
        repository, unlisted = stack.named("removed/app"), stack.target.create_role("retired")
        with stack.only_rules():
            stack.create_repository(repository, allow_pull(unlisted, stack.role))

            assert stack.invoke({"repositories": [repository]})["outcomes"] == {"unchanged": 1}
            with stack.environment(REMOVE_UNLISTED_ROLES="true"):
                report = stack.invoke({"repositories": [repository]})

        assert report["repositories"] == [
            {"repository": repository, "outcome": "attached", "removed": {"AllowPull": [unlisted]}}
        ]
        assert stack.statements(repository) == [stack.allow_pull]

    def test_missing_role_is_named_on_the_first_event_and_granted_once_it_exists(self, stack: Stack) -> None:
        repository, missing = stack.named("missing/app"), stack.target.arn("created-later")
        both_roles = f"{stack.role},{missing}"
        with stack.environment(WORKER_ROLE_ARNS=both_roles):
            since = time.time()
            stack.create_repository(repository)
            data_plane.push(stack.registry, repository)
            stack.wait_until(lambda: missing in [line.get("role") for line in stack.log_lines(since)])
            stack.wait_for_statements(repository, stack.allow_pull)

        assert stack.target.create_role("created-later") == missing
        with stack.environment(WORKER_ROLE_ARNS=both_roles):  # a new process, which asks again
            report = stack.invoke({"repositories": [repository]})

        assert report["repositories"][0]["added"] == {"AllowPull": [missing]}

    def test_recreated_role_is_granted_again_in_the_place_of_its_old_id(self, stack: Stack) -> None:
        repository, recreated = stack.named("recreated/app"), stack.target.create_role("recreated")
        with stack.only_rules(), stack.environment(WORKER_ROLE_ARNS=f"{stack.role},{recreated}"):
            stack.create_repository(repository)
            stack.invoke({"repositories": [repository]})
            stack.target.delete_role("recreated")
            stack.target.create_role("recreated")

            stack.invoke({"repositories": [repository]})

        assert stack.statements(repository) == equal_form(allow_pull(stack.role, recreated))

    def test_invalid_parameter_fails_the_deployment(self, stack: Stack) -> None:
        with pytest.raises((SamError, ClientError), match="Mode"):
            stack.deploy({"WorkerRoleArns": stack.role, "Mode": "maybe"}, f"{stack.aws.stack}-wrong-mode")


class TestOtherGrants:
    @pytest.mark.embedded("needs a second account")
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

    @pytest.mark.embedded("a creation template is a setting of the whole registry")
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
            outputs = stack.deploy(parameters, "template")
            try:
                stack.create_repository("docker-hub/templated/app")
                at_once = stack.statements("docker-hub/templated/app")
                response = stack.aws.lambda_().invoke(
                    FunctionName=outputs["FunctionName"],
                    Payload=json.dumps({"repositories": ["docker-hub/templated/app"]}),
                )
            finally:
                stack.aws.delete("template")

        sids = [statement["Sid"] for statement in at_once if isinstance(statement, dict)]
        assert sids == ["AllowPull", "AllowDescribeImages", "AllowPullThroughCache"]
        assert json.loads(response["Payload"].read())["outcomes"] == {"unchanged": 1}

    @pytest.mark.embedded("the policy of the registry is a setting of the whole registry")
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

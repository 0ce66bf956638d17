"""The deployed stack: what users type, and what workers may pull."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from local import worker
from local.aws import STACK, LocalAwsError
from tests.e2e.conftest import ALLOW_PULL, FOREIGN, Stack


@pytest.mark.parametrize("repository", ["made-by-a-call/app", "docker-hub/library/alpine"])
def test_a_new_repository_becomes_pullable_from_the_workers_account(stack: Stack, repository: str) -> None:
    stack.create(repository)
    assert worker.refusal(stack.node, repository) is not None

    worker.push(stack.registry, repository)
    stack.wait_until(lambda: worker.refusal(stack.node, repository) is None)

    assert stack.statements_of(repository) == [ALLOW_PULL]


def test_a_statement_that_was_there_first_stays_as_it_was(stack: Stack) -> None:
    stack.create("with-a-policy/app", FOREIGN)

    stack.wait_for("with-a-policy/app", FOREIGN, ALLOW_PULL)


def test_a_worker_needs_its_own_accounts_leave_too(stack: Stack) -> None:
    stack.create("both-sides/app")
    worker.push(stack.registry, "both-sides/app")
    stack.wait_for("both-sides/app", ALLOW_PULL)

    with worker.without_its_own_permission(stack.aws):
        assert worker.refusal(stack.node, "both-sides/app") is not None

    assert worker.refusal(stack.node, "both-sides/app") is None


class TestARerunByHand:
    def test_of_all_mends_every_repository(self, stack: Stack) -> None:
        with stack.only():
            stack.create("mended/app")

            event = ["--event-file", "events/rerun-all.json"]
            printed = stack.aws.sam("remote", "invoke", "--stack-name", STACK, *event)

        report, _ = json.JSONDecoder().raw_decode(printed, printed.index('{"checked"'))
        mended = {"repository": "mended/app", "outcome": "attached", "added": [worker.ROLE_ARN]}
        assert mended in report["repositories"]
        assert stack.statements_of("mended/app") == [ALLOW_PULL]

    def test_as_a_dry_run_writes_nothing(self, stack: Stack) -> None:
        with stack.only():
            stack.create("looked-at/app")

            report = stack.invoke({"repositories": ["looked-at/*"], "dry_run": True})

        assert report["outcomes"] == {"would_attach": 1}
        assert stack.statements_of("looked-at/app") == []

    def test_by_a_glob_that_matches_nothing_says_so(self, stack: Stack) -> None:
        assert stack.invoke({"repositories": ["no-such/*"]})["unmatched"] == ["no-such/*"]

    def test_with_a_wrong_payload_is_refused_and_shown_the_right_form(self, stack: Stack) -> None:
        answer = stack.invoke({"repository": "team/app"})

        assert '{"repositories": ["team/app", "ml/*"], "dry_run": true}' in answer["error"]


def test_a_sweep_that_is_out_of_time_goes_on_in_a_new_invocation_until_all_is_done(stack: Stack) -> None:
    names = [f"many/app-{number:04}" for number in range(800)]
    functions, function = stack.aws.lambda_(), stack.outputs["FunctionName"]
    with stack.only():
        for name in names:
            stack.create(name)
        functions.update_function_configuration(FunctionName=function, Timeout=2)
        try:
            first = stack.invoke({"repositories": ["many/*"]})
            stack.wait_until(lambda: all(stack.statements_of(name) for name in names))
        finally:
            functions.update_function_configuration(FunctionName=function, Timeout=900)
            for name in names:
                stack.registry.delete_repository(repositoryName=name, force=True)

    assert first["handed_over"] is True
    assert 0 < first["checked"] < len(names)


class TestTheSettings:
    def test_stop_the_function_with_a_message_if_they_are_wrong(self, stack: Stack) -> None:
        with environment(stack, WORKER_ROLE_ARNS="arn:aws:sts::222222222222:assumed-role/node-group/i-1"):
            answer = stack.invoke({})

        assert answer["error"].startswith("WORKER_ROLE_ARNS is ")
        assert "arn:aws:iam::222222222222:role/node-group" in answer["error"]

    def test_in_plan_mode_let_nothing_be_written_whatever_happens(self, stack: Stack) -> None:
        with environment(stack, MODE="plan"):
            before = len(stack.reports())
            stack.create("planned/app")
            stack.wait_until(lambda: len(stack.reports()) > before)

            assert stack.reports()[-1]["outcomes"] == {"would_attach": 1}
            assert stack.statements_of("planned/app") == []

    def test_take_a_role_out_of_the_grant_only_if_asked(self, stack: Stack) -> None:
        another = "arn:aws:iam::222222222222:role/unionai-acme-retired"
        with stack.only():
            stack.create("removed/app", ALLOW_PULL | {"Principal": {"AWS": [another, worker.ROLE_ARN]}})

            assert stack.invoke({"repositories": ["removed/app"]})["outcomes"] == {"unchanged": 1}
            with environment(stack, REMOVE_UNLISTED_ROLES="true"):
                report = stack.invoke({"repositories": ["removed/app"]})

        assert report["repositories"] == [
            {"repository": "removed/app", "outcome": "attached", "removed": [another]}
        ]
        assert stack.statements_of("removed/app") == [ALLOW_PULL]

    def test_are_checked_when_they_are_deployed(self, stack: Stack) -> None:
        with pytest.raises(LocalAwsError, match="Mode"):
            stack.aws.deploy({"WorkerRoleArns": worker.ROLE_ARN, "Mode": "maybe"}, stack="wrong-mode")


@contextmanager
def environment(stack: Stack, **variables: str) -> Iterator[None]:
    functions, name = stack.aws.lambda_(), stack.outputs["FunctionName"]
    before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": before | variables})
    try:
        yield
    finally:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": before})

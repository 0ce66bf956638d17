"""Malformed input: any JSON as an event, and any text as a policy."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from devstack.fake_ecr import ACCOUNT, REGION
from handler.events.request import Ignored, InvalidEvent, Request
from handler.events.triggers import FunctionIdentity
from handler.events.triggers import parse as parse_event
from handler.policy.denials import deleted_principals, denials, rejection_hint
from handler.policy.document import MAX_CHARACTERS, InvalidPolicy, parse, render
from handler.policy.grants import PULL, Grant
from handler.policy.plan import foreign, plan
from handler.policy.scope import is_repository_name
from tests.unit.pull_grant import pull_roles

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
FUNCTION = FunctionIdentity(ACCOUNT, REGION, caller_arn="ourselves")
EVENT: dict[str, Any] = {
    "detail-type": "AWS API Call via CloudTrail",
    "source": "aws.ecr",
    "account": ACCOUNT,
    "region": REGION,
    "resources": [],
    "detail": {
        "eventSource": "ecr.amazonaws.com",
        "eventName": "CreateRepository",
        "responseElements": {"repository": {"repositoryName": "app"}},
        "requestParameters": {"repositoryName": "app"},
    },
}
POLICY: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "AllowPull",
            "Effect": "Allow",
            "Principal": {"AWS": [ROLE]},
            "Action": ["ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability"],
        }
    ],
}

words = st.sampled_from(
    [
        *EVENT,
        *EVENT["detail"],
        *POLICY,
        *POLICY["Statement"][0],
        *(
            "ECR Image Action",
            "SUCCESS",
            "PUSH",
            "repositories",
            "dry_run",
            "continuation",
            "app",
            "*",
            "[",
            "AWS",
        ),
        *("NotPrincipal", "NotAction", "Condition", "Deny", "AllowPull", "AllowPull2", "ecr:*", ROLE),
    ]
)
texts = st.one_of(words, st.text(st.characters(categories=None), max_size=8))
any_json: SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:  # noqa: ANN401 - any JSON
    """Draw a copy of the valid value in which some parts may be replaced."""
    if draw(st.integers(0, 7)) == 0:
        return draw(any_json)
    if isinstance(valid, dict):
        return {
            (draw(texts) if draw(st.integers(0, 15)) == 0 else key): draw(mutated(value))
            for key, value in valid.items()
        }
    if isinstance(valid, list):
        return [draw(mutated(item)) for item in valid]
    return valid


@given(
    st.one_of(
        any_json, mutated(EVENT), mutated({"repositories": ["app"], "dry_run": False, "continuation": None})
    )
)
@example(EVENT | {"detail-type": []})
@example(
    {
        "repositories": ["app"],
        "continuation": {"token": None, "unmatched": [], "failed": [], "failed_more": True, "relistings": 0},
    }
)
def test_any_json_as_an_event_is_parsed_or_rejected(event: object) -> None:
    try:
        request = parse_event(event, FUNCTION)
    except InvalidEvent as error:
        assert str(error)  # noqa: PT017 - both outcomes are correct
    else:
        if isinstance(request, Ignored):
            assert request.reason
        else:
            assert isinstance(request, Request)
            assert request.repositories
            assert json.loads(json.dumps(request.payload("0e")))


def test_the_input_that_is_mutated_is_valid() -> None:
    """Otherwise, the tests of this module would show that everything is rejected."""
    request = parse_event(EVENT, FUNCTION)

    assert isinstance(request, Request)
    assert request.repositories == ("app",)
    assert parse(json.dumps(POLICY)) == POLICY


@given(mutated(EVENT))
def test_an_event_yields_only_valid_repository_names(event: object) -> None:
    try:
        request = parse_event(event, FUNCTION)
    except InvalidEvent:
        return
    if isinstance(request, Request) and isinstance(event, dict) and "detail-type" in event:
        assert all(map(is_repository_name, request.repositories))


@given(st.one_of(st.text(), any_json.map(json.dumps), mutated(POLICY).map(json.dumps)))
@example('{"Statement": "' + "\\ud800" + '"}')
@example('{"Statement": [{"Condition": 1e999}]}')
@example('{"Statement": [{"Condition": "\\ud800"}]}')
@example('{"Statement": [{"Condition": ' + "[" * 3_000 + "]" * 3_000 + "}]}")
@example('{"Statement": [{"Condition": ' + "[" * 90_000 + "]" * 90_000 + "}]}")
@example('{"Statement": [{"Condition": ' + "9" * 5_000 + "}]}")
@example('{"Statement": [{"Condition": {"n": 1.10, "n": 1.1}}]}')
def test_any_text_as_a_policy_is_parsed_or_rejected(text: str) -> None:
    try:
        present = parse(text)
    except InvalidPolicy:
        return
    grants = [Grant(PULL, (ROLE,))]
    for function in (deleted_principals, rejection_hint):
        function(present)
    denials(present, grants)
    planned = plan(present, grants)
    if planned.unfit:
        assert planned.policy is present
        assert planned.length > MAX_CHARACTERS
        return
    assert planned.policy
    written = render(planned.policy)
    written.encode()
    assert parse(written) == planned.policy
    assert len(written) <= MAX_CHARACTERS or planned.policy is present
    assert ROLE in pull_roles(planned.policy)
    assert [statement for _, statement in foreign(planned.policy)] == [
        statement for _, statement in foreign(present)
    ]

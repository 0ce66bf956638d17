"""Both doors against nonsense: any JSON as an event, anything as a policy."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from devstack.fake_ecr import ACCOUNT, REGION
from handler.denials import canonical_form, deleted_principals, denials
from handler.policy import attach, granted
from handler.policy_document import InvalidPolicy, PolicyTooLong, parse, render
from handler.request import InvalidEvent, Request
from handler.scope import is_repository_name
from handler.triggers import FunctionIdentity
from handler.triggers import parse as parse_event

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
            "checkpoint",
            "app",
            "*",
            "[",
            "AWS",
        ),
        *("NotPrincipal", "NotAction", "Condition", "Deny", "AllowPull", "AllowPull2", "ecr:*", ROLE),
    ]
)
texts = st.one_of(words, st.text(st.characters(categories=None), max_size=8))
anything: SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=12,
)


@st.composite
def bent(draw: st.DrawFn, sound: Any) -> Any:  # noqa: ANN401 - it is JSON
    """Draw something that is sound but for some of its parts."""
    if draw(st.integers(0, 7)) == 0:
        return draw(anything)
    if isinstance(sound, dict):
        return {
            (draw(texts) if draw(st.integers(0, 15)) == 0 else key): draw(bent(value))
            for key, value in sound.items()
        }
    if isinstance(sound, list):
        return [draw(bent(item)) for item in sound]
    return sound


@given(
    st.one_of(anything, bent(EVENT), bent({"repositories": ["app"], "dry_run": False, "checkpoint": None}))
)
@example(EVENT | {"detail-type": []})
@example(
    {
        "repositories": ["app"],
        "checkpoint": {"token": None, "unmatched": [], "failed": [], "failed_more": True, "relistings": 0},
    }
)
def test_any_json_as_an_event_is_understood_or_refused(event: object) -> None:
    try:
        request = parse_event(event, FUNCTION)
    except InvalidEvent as error:
        assert str(error)  # noqa: PT017 - either is right
    else:
        assert isinstance(request, Request)
        assert bool(request.repositories) != bool(request.ignored)
        assert json.loads(json.dumps(request.payload()))


@given(bent(EVENT))
def test_an_event_names_only_what_could_be_a_repository(event: object) -> None:
    try:
        request = parse_event(event, FUNCTION)
    except InvalidEvent:
        return
    if isinstance(event, dict) and "detail-type" in event:
        assert all(map(is_repository_name, request.repositories))


@given(st.one_of(st.text(), anything.map(json.dumps), bent(POLICY).map(json.dumps)))
@example('{"Statement": "' + "\\ud800" + '"}')
@example('{"Statement": [{"Condition": 1e999}]}')
@example('{"Statement": [{"Condition": "\\ud800"}]}')
@example('{"Statement": [{"Condition": ' + "[" * 3_000 + "]" * 3_000 + "}]}")
@example('{"Statement": [{"Condition": ' + "[" * 90_000 + "]" * 90_000 + "}]}")
@example('{"Statement": [{"Condition": ' + "9" * 5_000 + "}]}")
@example('{"Statement": [{"Condition": {"n": 1.10, "n": 1.1}}]}')
def test_anything_as_a_policy_is_understood_or_refused(text: str) -> None:
    try:
        present = parse(text)
        wanted = attach(present, [ROLE], remove_deleted=True)
        written = render(wanted)
    except (InvalidPolicy, PolicyTooLong):
        return
    for look in (deleted_principals, canonical_form):
        look(present)
    denials(present, [ROLE])
    written.encode()
    assert parse(written) == wanted
    assert ROLE in granted(wanted)

"""What identifies an account, a person, a machine or a credential is not in an acceptance report."""

import json
from typing import Any

import pytest

from acceptance.redaction import Redactor

PREFIX = "ecr-allow-pull-acceptance-0a1b2c3d"
ACCOUNT, OTHER = "918273645546", "564738291029"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjE" + "Ab3/+" * 60
PERSONAL = {
    ACCOUNT,
    OTHER,
    "alice",
    "AliceAdmin",
    "acme",
    "Zq81",
    "hunter2",
    "198.51.100.23",
    "2001:db8:85a3::8a2e:370:7334",
    "AKIA",
    "IQoJ",
    "wJalrXUtnFEMI",
    "aws-cli",
    "mybox",
}
USER_IDENTITY = {
    "type": "AssumedRole",
    "principalId": "AROAZq81ABCDEFGH:alice@acme.example.com",
    "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/AliceAdmin/alice@acme.example.com",
    "accountId": ACCOUNT,
    "accessKeyId": "ASIAZQ81ABCDEFGHIJKL",
    "sessionContext": {
        "sessionIssuer": {
            "type": "Role",
            "principalId": "AROAZQ81ABCDEFGH",
            "arn": f"arn:aws:iam::{ACCOUNT}:role/team/AliceAdmin",
            "userName": "AliceAdmin",
        },
        "attributes": {"mfaAuthenticated": "false"},
    },
    "invokedBy": "ecr.amazonaws.com",
}
EVENT = {
    "account": ACCOUNT,
    "detail": {
        "userIdentity": USER_IDENTITY,
        "sourceIPAddress": "198.51.100.23",
        "userAgent": "aws-cli/2 alice",
        "eventName": "CreateRepository",
        "requestParameters": {
            "repositoryName": f"{PREFIX}/app",
            "policyText": json.dumps({"Principal": {"AWS": f"arn:aws:iam::{OTHER}:user/dev/alice"}}),
        },
        "resources": [{"ARN": f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{PREFIX}/app"}],
    },
}
NASTY = [
    EVENT,
    json.dumps(json.dumps(EVENT)),
    f"the event was {json.dumps(EVENT)!r}",
    f"the event was {EVENT!r}",
    json.dumps(EVENT, indent=2) + " and more",
    {"reason": [f"User: arn:aws:sts::{ACCOUNT}:assumed-role/AliceAdmin/alice@acme.example.com may not"]},
    f"arn:aws:iam::{ACCOUNT}:user/alice,arn:aws:iam::{OTHER}:role/AliceAdmin, arn:aws:iam::{OTHER}:mfa/alice",
    f"arn:aws-cn:sts::{ACCOUNT}:federated-user/alice",
    f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/app and _{OTHER}_ and {{'{ACCOUNT}': {OTHER}}}",
    {ACCOUNT: int(OTHER)},
    "mail alice@acme.example.com, alice+aws@acme.co.uk",
    "from 198.51.100.23:443 and [2001:db8:85a3::8a2e:370:7334] and ip:2001:db8:85a3::8a2e:370:7334",
    "AKIAZQ81ABCDEFGHIJKL wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    {"aws_session_token": SESSION_TOKEN, "password": "hunter2"},
    "/home/alice/ecr-allow-pull/tests and /Users/alice/x",
    f"https://s3.amazonaws.com/{PREFIX}?X-Amz-Credential=AKIAZQ81ABCDEFGHIJKL%2F&X-Amz-Signature=Zq81",
    "host mybox, role AliceAdmin",
]  # fmt: skip


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(PREFIX, ACCOUNT, ["AliceAdmin", "mybox", "x"])


@pytest.mark.parametrize("value", NASTY, ids=lambda value: str(value)[:30])
def test_nothing_personal_passes(redactor: Redactor, value: object) -> None:
    shown = json.dumps(redactor.redact(value))

    assert {text for text in PERSONAL if text in shown} <= {"AKIA"}  # as AKIAEXAMPLE
    assert "AKIAZ" not in shown


@pytest.mark.parametrize(
    "name",
    [
        *("accessKeyId", "arnOfCaller", "principalId", "sessionName", "sourceIPAddress", "sourceIdentity"),
        *("userAgent", "userName", "vpcEndpointId", "vpcEndpointAccountId", "vpcendpointid"),
        *("clientToken", "password", "secretAccessKey", "sessionToken"),
    ],
)
def test_the_value_of_a_personal_field_of_cloudtrail_or_a_request_is_removed(
    redactor: Redactor, name: str
) -> None:
    record = {"detail": {name: "of alice"}}

    assert redactor.redact(record) == {"detail": {name: "REDACTED"}}
    assert (
        redactor.redact(f"seen: {json.dumps(record)}")
        == f"seen: {json.dumps({'detail': {name: 'REDACTED'}})}"
    )


def test_an_identity_keeps_its_type_and_its_structure(redactor: Redactor) -> None:
    redacted: Any = redactor.redact(EVENT)

    assert redacted["detail"]["userIdentity"] == {
        "type": "AssumedRole",
        "principalId": "REDACTED",
        "arn": "arn:aws:sts::111122223333:assumed-role/CALLER/SESSION",
        "accountId": "111122223333",
        "accessKeyId": "REDACTED",
        "sessionContext": {
            "sessionIssuer": {
                "type": "Role",
                "principalId": "REDACTED",
                "arn": "arn:aws:iam::111122223333:role/CALLER",
                "userName": "REDACTED",
            },
            "attributes": {"mfaAuthenticated": "REDACTED"},
        },
        "invokedBy": "ecr.amazonaws.com",
    }


def test_each_account_has_its_own_replacement_everywhere(redactor: Redactor) -> None:
    third, fourth = "135792468013", "246801357924"

    assert redactor.redact([OTHER, f"{ACCOUNT}/{third}", OTHER, fourth]) == [
        "444455556666",
        "111122223333/777788889999",
        "444455556666",
        "000000000003",
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"sourceIPAddress": "ecr.amazonaws.com", "userAgent": "lambda.amazonaws.com"},
        f"arn:aws:sts::111122223333:assumed-role/{PREFIX}-main-Role/{PREFIX}-main",
        f"arn:aws:iam::111122223333:role/{PREFIX}-worker",
        f"{PREFIX}/app@sha256:{'0a' * 32}",
        "10:00:01 tests/unit/test_x.py::TestA::test_b arn:aws:s3:::bucket 2026-01-15T10:00:01Z",
        "commit 2f9ae31c0ffee2f9ae31c0ffee2f9ae31c0ffee0, 0.3.0, 3.13",
        [1, 2.5, True, None, "InvalidParameterException"],
    ],
    ids=str,
)
def test_what_identifies_nobody_is_kept(value: object) -> None:
    assert Redactor(PREFIX, "111122223333").redact(value) == value


def test_a_name_in_the_prefix_does_not_make_the_report_unreadable() -> None:
    assert Redactor(PREFIX, personal=["pull"]).redact(f"{PREFIX}/app") == f"{PREFIX}/app"

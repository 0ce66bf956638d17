"""Both doors under a fuzzer that follows the code's branches: `make fuzz`. What it finds becomes a test."""

import json
import sys

import atheris

with atheris.instrument_imports(include=["handler", "json"]):
    from handler.policy import InvalidPolicy, PolicyTooLong, foreign, granted, parse
    from handler.reconciler import Check, Roles
    from handler.request import InvalidEvent
    from handler.settings import Settings
    from handler.triggers import FunctionIdentity
    from handler.triggers import parse as parse_event

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
SETTINGS = Settings.from_environment({"WORKER_ROLE_ARNS": ROLE})
FUNCTION = FunctionIdentity("111122223333", "us-east-1", caller_arn="ourselves")


class OnePolicy:
    """A registry with one repository, whose policy is whatever the fuzzer made."""

    def __init__(self, text: str) -> None:
        """Begin with this policy."""
        self.text = text
        self.writes = 0

    def get_policy(self, _: str) -> str:
        """Give the policy."""
        return self.text

    def set_policy(self, _: str, text: str) -> None:
        """Take a policy, if it is what should have been written."""
        before, after = parse(self.text), parse(text)
        text.encode()
        assert [one for _, one in foreign(before)] == [one for _, one in foreign(after)]
        assert granted(after) >= granted(before) | {ROLE}
        self.text = text
        self.writes += 1


def check_a_policy(text: str) -> None:
    """A policy that cannot be understood is refused, and any other gets the grant once."""
    registry = OnePolicy(text)
    try:
        for _ in range(2):
            Check("app", SETTINGS, registry, Roles(), dry_run=False).attempt()  # type: ignore[arg-type]
    except (InvalidPolicy, PolicyTooLong):
        assert not registry.writes
    assert registry.writes <= 1


def read_an_event(text: str) -> None:
    """An event is understood or refused."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return
    try:
        parse_event(event, FUNCTION)
    except InvalidEvent:
        return


def fuzz(data: bytes) -> None:
    """Send the same text through both doors."""
    text = data.decode(errors="surrogateescape")
    check_a_policy(text)
    read_an_event(text)


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()

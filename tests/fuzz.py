"""Coverage-guided fuzzing of the event and policy parsers: `make fuzz`. Keep each finding as a test."""

import json
import sys

import atheris

with atheris.instrument_imports(include=["handler", "json"]):
    from handler.ecr.retry import Deadline
    from handler.events.request import InvalidEvent
    from handler.events.triggers import FunctionIdentity
    from handler.events.triggers import parse as parse_event
    from handler.policy.document import MAX_CHARACTERS, parse
    from handler.policy.grants import PULL, Grantee
    from handler.policy.plan import foreign, grantees_of, is_deleted
    from handler.reconcile.reconciler import Context, reconcile
    from handler.reconcile.result import Outcome
    from handler.settings import Settings

ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
SETTINGS = Settings.from_environment(
    {
        "WORKER_ROLE_ARNS": ROLE,
        "REPOSITORIES": "*",
        "MODE": "enforce",
        "ROLE_NAME": "ecr-allow-pull-Role",
        "ROLE_CHECK_REPOSITORY": "ecr-allow-pull-role-check/fuzz",
    }
)
FUNCTION = FunctionIdentity("111122223333", "us-east-1", caller_arn="ourselves")


class OneRepositoryRegistry:
    """A registry with one repository, whose policy comes from the fuzzer."""

    def __init__(self, text: str) -> None:
        """Start with this policy."""
        self.text = text
        self.writes = 0

    def get_policy(self, _: str) -> str:
        """Return the policy."""
        return self.text

    def set_policy(self, _: str, text: str) -> None:
        """Store the policy, and assert that only the grant changed."""
        before, after = parse(self.text), parse(text)
        text.encode()
        assert len(text) <= MAX_CHARACTERS
        assert [one for _, one in foreign(before)] == [one for _, one in foreign(after)]
        living = {each for each in grantees_of(before) if not is_deleted(each.principal)}
        assert grantees_of(after) == living | {Grantee(PULL, ROLE)}
        self.text = text
        self.writes += 1


def reconcile_policy(text: str) -> None:
    """An invalid policy is never written, and a valid policy gets the grant in one write, if it fits."""
    registry = OneRepositoryRegistry(text)
    deadline = Deadline(lambda: 900.0, reserve=0)
    context = Context(SETTINGS, registry, role_check=None, deadline=deadline)  # type: ignore[arg-type]
    outcomes = [reconcile("app", context).outcome for _ in range(2)]
    if Outcome.FAILED in outcomes:
        assert not registry.writes
    assert registry.writes <= 1


def parse_json_event(text: str) -> None:
    """An event is parsed or rejected."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return
    try:
        parse_event(event, FUNCTION)
    except InvalidEvent:
        return


def fuzz(data: bytes) -> None:
    """Use the same text as a policy and as an event."""
    text = data.decode(errors="surrogateescape")
    reconcile_policy(text)
    parse_json_event(text)


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()

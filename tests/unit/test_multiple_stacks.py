"""Several stacks that share repositories: they converge if they follow the rule of docs/how-it-works.md."""

from collections import deque
from itertools import cycle, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.fake_ecr import DELETE, WRITE, FakeEcr
from tests.environment import ROLE_CHECK_REPOSITORY
from tests.unit.function import Function, cloudtrail_event
from tests.unit.policies import CI, VENDOR, A, B, C, document, grant, push

REPOSITORIES = ("docker-hub/app", "team/app")
MAX_EVENTS = 40
# Many times what stacks need that converge: a first write of each, and one more after the other's.
MAX_WRITES = 4 * len(REPOSITORIES)


def registry() -> FakeEcr:
    ecr = FakeEcr()
    ecr.create_role(A, B, C, CI, VENDOR)
    ecr.create_repository(ROLE_CHECK_REPOSITORY)
    ecr.create_repository(REPOSITORIES[0])
    ecr.create_repository(REPOSITORIES[1], policy=document(push(CI), grant(CI)))
    return ecr


def writes(ecr: FakeEcr) -> list[str]:
    return [
        str(name)
        for operation, name, became in ecr.call_log
        if operation in {WRITE, DELETE} and became == "served" and name != ROLE_CHECK_REPOSITORY
    ]


def converge(ecr: FakeEcr, *stacks: Function) -> bool:
    """Let each stack reconcile everything, and see each write of another; return whether that ends."""
    events = deque((stack, name) for stack in stacks for name in REPOSITORIES)
    for _ in range(MAX_EVENTS):
        if not events:
            return len(writes(ecr)) <= MAX_WRITES
        stack, name = events.popleft()
        before = len(writes(ecr))
        assert stack.invoke(cloudtrail_event("SetRepositoryPolicy", name)).error is None
        if len(writes(ecr)) > before:
            events.extend((other, name) for other in stacks if other is not stack)
    return False


roles = st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=3, unique=True)
described = st.lists(st.sampled_from([A, B, C]), max_size=2, unique=True)
cached = st.sampled_from(["none", "docker-hub/*", "team/*", "*"])


def stack_settings(describe: list[str], cache: str, *, remove: bool) -> dict[str, str]:
    return {
        "DESCRIBE_ROLE_ARNS": ",".join(describe) or "none",
        "PULL_THROUGH_CACHE_REPOSITORIES": cache,
        "REMOVE_UNLISTED_ROLES": str(remove).lower(),
    }


@settings(max_examples=40)
@given(workers=roles, describe=described, cache=cached, others=st.data())
def test_a_stack_that_removes_and_configures_all_that_another_does_converges_with_it(
    workers: list[str], describe: list[str], cache: str, others: st.DataObject
) -> None:
    ecr = registry()
    their_workers = others.draw(st.lists(st.sampled_from(workers), min_size=1, unique=True))
    their_describe = others.draw(st.lists(st.sampled_from(describe), unique=True)) if describe else []
    their_cache = others.draw(st.sampled_from(["none", cache]))
    other = Function(ecr, their_workers, stack_settings(their_describe, their_cache, remove=False))
    owner = Function(ecr, workers, stack_settings(describe, cache, remove=True))

    assert converge(ecr, owner, other)
    assert converge(ecr, other, owner)


@settings(max_examples=30)
@given(workers=roles, describe=described, cache=cached)
def test_stacks_that_all_remove_converge_if_their_parameters_are_equal(
    workers: list[str], describe: list[str], cache: str
) -> None:
    ecr = registry()
    equal = stack_settings(describe, cache, remove=True)

    assert converge(ecr, *(Function(ecr, workers, equal) for _ in range(3)))


@settings(max_examples=30)
@given(data=st.data(), workers=st.lists(roles, min_size=2, max_size=3))
def test_stacks_that_remove_nothing_converge_whatever_they_configure(
    data: st.DataObject, workers: list[list[str]]
) -> None:
    ecr = registry()
    stacks = [
        Function(ecr, each, stack_settings(data.draw(described), data.draw(cached), remove=False))
        for each in workers
    ]

    assert converge(ecr, *stacks)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"REMOVE_UNLISTED_ROLES": "true"}, {"DESCRIBE_ROLE_ARNS": B}),
        ({"REMOVE_UNLISTED_ROLES": "true"}, {"PULL_THROUGH_CACHE_REPOSITORIES": "docker-hub/*"}),
        ({"REMOVE_UNLISTED_ROLES": "true"}, {"WORKER_ROLE_ARNS": f"{A},{B}"}),
        ({"MODE": "remove"}, {}),
    ],
)
def test_stacks_that_break_the_rule_undo_each_other_without_end(
    ours: dict[str, str], theirs: dict[str, str]
) -> None:
    """That is why the rule is needed, and that the others would notice a stack that breaks it."""
    ecr = registry()

    assert not converge(ecr, Function(ecr, (A,), ours), Function(ecr, (A,), theirs))
    assert list(islice(cycle(writes(ecr)[-2:]), 4)) == writes(ecr)[-4:]

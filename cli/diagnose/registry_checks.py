"""The checks of the registry's side: address, repository, image and cache, then both policies. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.diagnose.check import Check, Mark, joined
from cli.diagnose.facts import CREATE, IMPORT, CacheRule, Facts, ImageState, Unknown
from cli.diagnose.policy_checks import policy_checks

if TYPE_CHECKING:
    from collections.abc import Iterator


def registry_checks(facts: Facts) -> Iterator[Check]:
    """Yield the checks of the registry's side, in order."""
    if facts.completed:
        yield Check(
            "address",
            Mark.NOTE,
            "the name has no registry, so a node pulls it from Docker Hub; checked instead: "
            f"{facts.image.address()}",
        )
    if facts.image.is_dual_stack:
        yield Check(
            "address",
            Mark.NOTE,
            "the dual-stack address is the same registry; the kubelet's credential provider must match it",
        )
    yield _repository(facts)
    if facts.registry.repository_exists is not False:
        yield _image(facts)
    yield from _cache(facts)
    if facts.registry.repository_exists is False and not facts.creates_repository:
        return
    yield from policy_checks(facts)


def _repository(facts: Facts) -> Check:
    registry, image = facts.registry, facts.image
    where = f"account {image.account}, {image.region}"
    match registry.repository_exists:
        case Unknown(reason):
            return Check(
                "repository", Mark.UNKNOWN, f"whether {image.repository} exists is unknown: {reason}"
            )
        case True:
            return Check("repository", Mark.OK, f"{image.repository} exists in {where}")
    if facts.creates_repository:
        return Check(
            "repository", Mark.NOTE, f"{image.repository} does not exist yet: the first pull creates it"
        )
    reason = f"the repository {image.repository} does not exist in {where}"
    if registry.other_regions:
        regions = joined(list(registry.other_regions))
        return Check(
            "repository", Mark.FAILED, f"{reason}, and exists in {regions}", "Use the address of that region."
        )
    return Check(
        "repository", Mark.FAILED, reason, "Correct the account, the region or the name in the address."
    )


def _image(facts: Facts) -> Check:
    image = facts.image
    match facts.registry.image:
        case Unknown(reason):
            return Check("image", Mark.UNKNOWN, f"whether {image.reference} exists is unknown: {reason}")
        case ImageState.ARCHIVED:
            fix = "Restore the image, or push it again."
            return Check("image", Mark.FAILED, f"{image.reference} is archived: a pull gets 404", fix)
        case ImageState.ACTIVATING:
            return Check("image", Mark.FAILED, f"{image.reference} is being restored", "Try again later.")
        case ImageState.MISSING if isinstance(facts.registry.cache_rule, CacheRule):
            return Check("image", Mark.NOTE, f"{image.reference} is not cached yet: the pull imports it")
        case ImageState.MISSING if isinstance(facts.registry.cache_rule, Unknown):
            reason = f"{image.reference} does not exist, unless a pull-through cache imports it"
            return Check("image", Mark.UNKNOWN, f"{reason}: {facts.registry.cache_rule.reason}")
        case ImageState.MISSING:
            fix = "Push the image, or correct the tag or digest."
            return Check("image", Mark.FAILED, f"{image.reference} does not exist in {image.repository}", fix)
    return Check("image", Mark.OK, f"{image.reference} exists")


def _cache(facts: Facts) -> Iterator[Check]:
    rule = facts.registry.cache_rule
    if not isinstance(rule, CacheRule):
        return
    what = f"the pull-through cache {rule.prefix} imports from {rule.upstream}"
    if not facts.imports:
        yield Check("pull-through cache", Mark.OK, f"{what}; this image is cached, so no import is needed")
        return
    needed = joined([action for action in facts.needed if action in {IMPORT, CREATE}])
    yield Check("pull-through cache", Mark.NOTE, f"{what}; this pull needs {needed} too, on both sides")

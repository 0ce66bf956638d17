"""The diagnosis of a pull: the checks of both sides, in order. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.diagnose.check import Diagnosis, Mark
from cli.diagnose.policy_checks import optional_action
from cli.diagnose.registry_checks import registry_checks
from cli.diagnose.role_checks import role_checks

if TYPE_CHECKING:
    from cli.diagnose.facts import Facts


def diagnose(facts: Facts) -> Diagnosis:
    """Return the checks of both sides."""
    registry = list(registry_checks(facts))
    if facts.registry.repository_exists is not False and not any(
        each.mark is Mark.FAILED for each in registry
    ):
        registry += filter(None, [optional_action(facts)])
    return Diagnosis((*registry, *role_checks(facts)))

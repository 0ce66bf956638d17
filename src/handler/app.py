"""The door: one event in, one report out. Wires the rest, decides nothing."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

# To start makes much that stays for good. Looking it through for garbage takes a tenth of a cold start.
gc.disable()

from handler.reconcile import reconcile
from handler.registry import Registry
from handler.report import logger, reject
from handler.request import InvalidEvent
from handler.settings import InvalidSetting, Settings
from handler.triggers import Home, event_id, parse

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Once in a process, while Lambda starts it: every invocation after that finds the client warm.
registry = Registry.connect()
try:
    settings: Settings | InvalidSetting = Settings.from_environment(os.environ)
except InvalidSetting as wrong:
    settings = wrong
gc.freeze()
gc.enable()


@logger.inject_lambda_context
def lambda_handler(event: object, context: LambdaContext) -> dict[str, object]:
    """Check the repositories that the event names and answer with the report.

    This decides what Lambda tries again: an asynchronous event that ends in an error is run twice
    more, minutes later. A busy ECR, a role that was made a moment ago and a policy that its owner
    mends are worth that. A wrong event or setting is as wrong then as it is now, so it is logged and
    answered, and raises nothing.

    Raises:
        RegistryError: the repositories could not be listed.
        OutOfTime: the time ended before one check did.
        HandOverFailed: there was no time to check all, and nobody to hand the rest to.
        ChecksFailed: a repository lacks the grant for a worker role; what could be done was done.
    """
    logger.set_correlation_id(event_id(event) or context.aws_request_id)
    try:
        return _check(event, context)
    except (InvalidEvent, InvalidSetting) as error:
        return reject(error)


def _check(event: object, context: LambdaContext) -> dict[str, object]:
    if isinstance(settings, InvalidSetting):
        raise settings
    request = parse(event, home(context))

    def time_left() -> float:
        return context.get_remaining_time_in_millis() / 1000

    report, rest = reconcile(request, settings, registry, time_left)
    if rest:
        # A sweep that needs no second invocation needs no client of Lambda either.
        from handler.handover import HandOverFailed, hand_over  # noqa: PLC0415

        try:
            hand_over(rest, context.function_name)
        except HandOverFailed:
            report.log()  # what was done is done
            raise
    return report.close(handed_over=rest is not None)


def home(context: LambdaContext) -> Home:
    """Tell where the function is and who it is: its role's session has the function's name."""
    _, partition, _, _, account, *_ = context.invoked_function_arn.split(":")
    role = os.environ.get("ROLE_NAME", "")
    return Home(
        account=account,
        region=os.environ["AWS_REGION"],
        identity=f"arn:{partition}:sts::{account}:assumed-role/{role}/{context.function_name}",
    )

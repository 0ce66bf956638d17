"""The entry point: an event in, a report out. Wires the modules, decides nothing."""

from __future__ import annotations

import gc
import os
from functools import cache
from typing import TYPE_CHECKING

# The imports create many objects that stay. Garbage collection meanwhile takes a tenth of a cold start.
gc.disable()

from handler.ecr.errors import RegistryError
from handler.ecr.registry import Registry
from handler.events.request import Ignored, InvalidEvent
from handler.events.triggers import FunctionIdentity, correlation_id, parse
from handler.reconcile.continuation import ContinuationFailed, continue_in_new_invocation
from handler.reconcile.role_check import RoleCheck
from handler.reconcile.sweep import OutOfTime, Sweep, read_registry_policy
from handler.report.report import Report, report_ignored
from handler.settings import InvalidSetting, Mode, Settings
from handler.telemetry import log_invalid_input, logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Once per process, while Lambda starts it: later invocations reuse the client.
registry = Registry.connect()
try:
    settings: Settings | InvalidSetting = Settings.from_environment(os.environ, registry.partition)
except InvalidSetting as error:
    settings = error
gc.freeze()
gc.enable()


@logger.inject_lambda_context
def lambda_handler(event: object, context: LambdaContext) -> dict[str, object]:
    """Reconcile the repositories that the event names, and return the report.

    If this raises, Lambda retries an asynchronous event twice, minutes later, and then sends the event to the
    dead-letter queue.

    Raises:
        InvalidEvent: the event or the payload cannot be processed.
        InvalidSetting: an environment variable is missing or wrong.
        RegistryError: the repositories could not be listed.
        OutOfTime: the time ended before a repository was reconciled or listed.
        ContinuationFailed: there was no time for all, and the sweep could not continue in a new invocation.
        RepositoriesFailed: a repository lacks a grant for a role, or keeps what should be removed.
    """
    started_by = correlation_id(event) or context.aws_request_id
    logger.set_correlation_id(started_by)
    try:
        return _reconcile(event, context, started_by)
    except (InvalidEvent, InvalidSetting) as error:
        log_invalid_input(error)
        raise
    except (ContinuationFailed, OutOfTime, RegistryError) as error:
        logger.error("invocation failed", extra={"reason": str(error)})
        raise


def _reconcile(event: object, context: LambdaContext, started_by: str) -> dict[str, object]:
    if isinstance(settings, InvalidSetting):
        # Each `raise` of one exception adds to its stack trace.
        raise settings.with_traceback(None)
    function = function_identity(context, settings.role_name)
    request = parse(event, function)
    if isinstance(request, Ignored):
        return report_ignored(request)
    role_check = _role_check(settings, function.account)
    sweep = Sweep(
        request, settings, registry, role_check, lambda: context.get_remaining_time_in_millis() / 1000
    )
    report = Report(request, dry_run=sweep.dry_run, mode=settings.mode)
    try:
        if request.with_registry_policy and settings.mode is not Mode.REMOVE:
            policy = read_registry_policy(registry, settings, function.repository_arn_prefix)
            report.add_registry_policy(policy)
        for result in sweep.run():
            report.add(result)
        if sweep.continuation:
            continue_in_new_invocation(sweep.continuation, context.function_name, started_by)
        report.add_missed_creations(sweep.creations.missed(registry, settings))
        report.end(sweep.unmatched, continued=sweep.continuation is not None)
    finally:
        response = report.publish()
    report.raise_for_failures()
    return response


@cache  # once per process: its answers outlast an invocation
def _role_check(settings: Settings, account: str) -> RoleCheck:
    return RoleCheck(registry, settings, account)


def function_identity(context: LambdaContext, role_name: str) -> FunctionIdentity:
    """Return the account, the region and the caller ARN: the role's session is named after the function."""
    _, partition, _, _, account, *_ = context.invoked_function_arn.split(":")
    return FunctionIdentity(
        account=account,
        region=os.environ["AWS_REGION"],
        caller_arn=f"arn:{partition}:sts::{account}:assumed-role/{role_name}/{context.function_name}",
        partition=partition,
    )

"""The door: one event in, one report out. Wires the rest, decides nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from handler.reconcile import reconcile
from handler.registry import Registry
from handler.report import logger
from handler.settings import Settings
from handler.triggers import parse

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# Once in a process, while Lambda starts it: a wrong setting stops the start, and every invocation
# after it finds the client warm.
settings = Settings.from_environment(os.environ)
registry = Registry.connect()


@logger.inject_lambda_context
def lambda_handler(event: object, context: LambdaContext) -> dict[str, object]:
    """Check the repositories that the event names and answer with the report.

    Raises:
        InvalidEvent: the event or payload cannot be acted on.
        RegistryError: the repositories could not be listed.
        ChecksFailed: a repository failed; all the others were done.
    """
    account = context.invoked_function_arn.split(":")[4]
    request = parse(event, account=account, region=os.environ["AWS_REGION"])
    return reconcile(request, settings, registry).close()

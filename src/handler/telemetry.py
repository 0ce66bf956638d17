"""The logger and the metrics."""

import logging
import os
from collections.abc import Mapping

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

# Without a valid level, the log is complete, and the settings name the wrong variable.
_level = os.environ.get("POWERTOOLS_LOG_LEVEL", "").strip().upper()
_level = _level if _level in logging.getLevelNamesMapping() else "INFO"
# With an empty name, Powertools logs nothing.
_service = os.environ.get("POWERTOOLS_SERVICE_NAME") or "service_undefined"

# Lambda filters lines by level only if their timestamp is in this format.
logger = Logger(service=_service, level=_level, use_rfc3339=True, location=None)
# Where Lambda has a log level of its own (AWS_LAMBDA_LOG_LEVEL), Powertools ignores the other one.
logging.getLogger(logger.service).setLevel(_level)

# At DEBUG, botocore logs every policy and every signature, and at INFO a line in each cold start.
logging.getLogger("botocore").setLevel(logging.WARNING)

# The dimension `service` is the stack's name: POWERTOOLS_SERVICE_NAME.
_metrics = Metrics(namespace="EcrAllowPull")


def emit_metrics(
    counts: Mapping[str, int], seconds: Mapping[str, float], added: Mapping[str, list[str]] | None = None
) -> None:
    """Write the metrics that are not zero, if any: CloudWatch bills every metric that is written.

    The line with the metrics names the principals that were added: it is written at every log level.
    """
    for name, count in counts.items():
        if count:
            _metrics.add_metric(name, MetricUnit.Count, count)
    for name, value in seconds.items():
        _metrics.add_metric(name, MetricUnit.Seconds, value)
    if seconds or any(counts.values()):
        if added:
            _metrics.add_metadata("principals_added", added)
        _metrics.flush_metrics()


def log_invalid_input(error: Exception) -> None:
    """Log and count an invalid event or setting."""
    logger.error("invalid input", extra={"reason": str(error)})
    emit_metrics({"InvalidInput": 1}, {})

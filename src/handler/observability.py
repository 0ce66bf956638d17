"""The logger and the metrics."""

import logging
from collections.abc import Mapping

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

# Lambda filters lines by level only if their timestamp is in this format.
logger = Logger(use_rfc3339=True, location=None)

# At DEBUG, botocore logs every policy and every signature.
logging.getLogger("botocore").setLevel(logging.INFO)

# The dimension `service` is the stack's name: POWERTOOLS_SERVICE_NAME.
_metrics = Metrics(namespace="EcrAllowPull")


def emit_metrics(counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
    """Write the metrics that are not zero, if any: CloudWatch bills every metric that is written."""
    for name, count in counts.items():
        if count:
            _metrics.add_metric(name, MetricUnit.Count, count)
    for name, value in seconds.items():
        _metrics.add_metric(name, MetricUnit.Seconds, value)
    if seconds or any(counts.values()):
        _metrics.flush_metrics()

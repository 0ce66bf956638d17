"""The metrics: what one invocation adds up to, as CloudWatch reads it from the log."""

from collections.abc import Mapping

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

# The service, a dimension, is the stack's name: POWERTOOLS_SERVICE_NAME.
_metrics = Metrics(namespace="EcrAllowPull")


def emit(counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
    """Write the metrics that are not zero, if any: each that is ever written costs money."""
    for name, count in counts.items():
        if count:
            _metrics.add_metric(name, MetricUnit.Count, count)
    for name, value in seconds.items():
        _metrics.add_metric(name, MetricUnit.Seconds, value)
    if seconds or any(counts.values()):
        _metrics.flush_metrics()

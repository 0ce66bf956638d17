"""Creation events: whether they arrive, for the repositories that were created in the last day.

They need a trail, and without one nothing says so. A scheduled sweep sees when a repository was created: if
the grant is missing much later, the event did not arrive, or the function could not process it. The second
case has alarms of its own, so EventBridge's own metric decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import boto3
from botocore.config import Config

from handler.ecr.errors import RegistryError
from handler.ecr.registry import Listed, Registry
from handler.ecr.retry import CONNECT_TIMEOUT, READ_TIMEOUT
from handler.reconcile.result import Result
from handler.settings import Settings
from handler.telemetry import logger

# CloudTrail's delay, and Lambda's retries, are shorter. A day, and the time window of the schedule.
_MIN_AGE, _MAX_AGE = timedelta(minutes=30), timedelta(hours=25)
_PERIOD = 300  # seconds
_MAX_NAMED = 100
_CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, retries={"total_max_attempts": 2}
)


@dataclass(slots=True)
class Creations:
    """The repositories in scope that were created in the last day, as a scheduled sweep finds them.

    Attributes:
        recent: when each was created.
        attached: those that lacked a grant.
    """

    recent: dict[str, datetime] = field(default_factory=dict)
    attached: list[str] = field(default_factory=list)

    def add_page(self, page: Iterable[Listed], now: datetime) -> None:
        """Remember the recent repositories of a page."""
        for name, created_at in page:
            if created_at and _MIN_AGE < now - created_at < _MAX_AGE:
                self.recent[name] = created_at

    def add_result(self, result: Result) -> None:
        """Remember a recent repository that lacked a grant."""
        if result.added and result.repository in self.recent:
            self.attached.append(result.repository)

    def missed(self, registry: Registry, settings: Settings) -> tuple[str, ...]:
        """Return the repositories whose creation event did not arrive, and log them."""
        if not self.recent:
            return ()
        try:
            installed_at = registry.created_at(settings.role_check_repository)
        except RegistryError:
            installed_at = None
        recent = {name: time for name, time in self.recent.items() if not installed_at or time > installed_at}
        matched = rule_matched(settings.creation_rule, min(recent.values())) if recent else True
        if matched:
            return ()
        missed = tuple(sorted(set(self.attached) & recent.keys()))
        if missed:
            details = {"repositories": missed[:_MAX_NAMED], "count": len(missed)}
            logger.warning("creation event missed", extra=details)
        elif matched is False:  # pushes have attached the grants
            logger.warning("no creation events", extra={"count": len(recent)})
        return missed


def rule_matched(rule: str, since: datetime) -> bool | None:
    """Return whether EventBridge's metric shows that a rule invoked its target; None if it cannot be read."""
    try:
        response = boto3.client("cloudwatch", config=_CONFIG).get_metric_data(
            MetricDataQueries=[
                {
                    "Id": "invocations",
                    "MetricStat": {
                        "Metric": {
                            "Namespace": "AWS/Events",
                            "MetricName": "Invocations",
                            "Dimensions": [{"Name": "RuleName", "Value": rule}],
                        },
                        "Period": _PERIOD,
                        "Stat": "Sum",
                    },
                }
            ],
            StartTime=since - timedelta(seconds=_PERIOD),
            EndTime=datetime.now(UTC),
        )
        return any(value for each in response["MetricDataResults"] for value in each["Values"])
    except Exception:  # noqa: BLE001 - the metric only prevents false alarms
        return None

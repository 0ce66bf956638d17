"""Reads the trails of a region from CloudTrail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from cli.errors import DENIED_CODES
from cli.permissions import permission
from cli.plan.trail import Trail, TrailCheck, check, unknown

if TYPE_CHECKING:
    from mypy_boto3_cloudtrail import CloudTrailClient
    from mypy_boto3_cloudtrail.type_defs import TrailTypeDef


def check_trails(client: CloudTrailClient) -> TrailCheck:
    """Return whether a trail logs write management events. The answer only advises, so an error is a note."""
    region = client.meta.region_name
    try:
        described = client.describe_trails(includeShadowTrails=True)["trailList"]
        trails = [_read(client, each) for each in described if _covers(each, region)]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        denied = code in DENIED_CODES
        what = permission(error.operation_name)
        return unknown(f"the credentials have no permission {what}" if denied else f"{what} answered {code}")
    except (BotoCoreError, ResponseParserError, KeyError, TypeError) as error:
        return unknown(f"CloudTrail did not answer ({type(error).__name__})")
    return check(trails, region)


def _covers(trail: TrailTypeDef, region: str) -> bool:
    return trail.get("IsMultiRegionTrail", False) or trail.get("HomeRegion", region) == region


def _read(client: CloudTrailClient, trail: TrailTypeDef) -> Trail:
    """Read a trail. An account of an organization may not be allowed to read the organization's trail."""
    logging = selectors = None
    try:
        logging = client.get_trail_status(Name=trail["TrailARN"])["IsLogging"]
        selectors = client.get_event_selectors(TrailName=trail["TrailARN"])
    except ClientError as error:
        if not trail.get("IsOrganizationTrail") and error.response["Error"]["Code"] in DENIED_CODES:
            raise
    return Trail(
        trail.get("Name", trail["TrailARN"]), trail.get("IsOrganizationTrail", False), logging, selectors
    )

"""Returns the template as CloudFormation receives it: after the SAM transform."""

import os
from collections.abc import Mapping
from typing import Any

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from devstack.host import PROJECT


class _NoManagedPolicies:
    """The template attaches no managed policy."""

    def load(self) -> Mapping[str, str]:
        return {}


def processed_template() -> dict[str, Any]:
    """Transform template.yaml. The result is the same in every region, but SAM needs one."""
    template = yaml_parse((PROJECT / "template.yaml").read_text())
    # `sam package` replaces the local path by an S3 URL.
    template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/key"
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    processed: dict[str, Any] = transform(template, {}, _NoManagedPolicies())
    return processed

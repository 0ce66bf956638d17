"""The outputs of a stack, as people, scripts and the command line of AWS use them."""

import json
import re
import shlex
import tomllib
from typing import Any

import pytest
from botocore import xform_name
from botocore.session import get_session
from botocore.validate import validate_parameters

from devstack.host import PROJECT
from handler.events.request import Request, from_payload
from tests.unit.cloudformation import ACCOUNT, STACK, Evaluator

PARTITIONS = {
    "aws": ("eu-west-1", "amazonaws.com", "console.aws.amazon.com"),
    "aws-cn": ("cn-north-1", "amazonaws.com.cn", "console.amazonaws.cn"),
    "aws-us-gov": ("us-gov-west-1", "amazonaws.com", "console.amazonaws-us-gov.com"),
}
FUNCTION = "ecr-allow-pull-Function-1A2B3C4D5E6F"
QUEUE = "ecr-allow-pull-DeadLetterQueue-1A2B3C4D5E6F"
TOPIC = "ecr-allow-pull-AlarmTopic-1A2B3C4D5E6F"
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]

type Outputs = dict[str, str]


def outputs_of(template: dict[str, Any], partition: str = "aws", **parameters: str) -> Outputs:
    """Return the outputs of a stack with the names that its resources get in AWS.

    What a reference returns is in "Return values" of each resource's page in the CloudFormation guide.
    """
    region, domain, _ = PARTITIONS[partition]
    evaluator = Evaluator(template, region, partition, **parameters)
    resources = evaluator.resources()
    references = {
        "<Function>": FUNCTION,
        "<LogGroup>": resources["LogGroup"]["LogGroupName"],
        "<DeadLetterQueue>": f"https://sqs.{region}.{domain}/{ACCOUNT}/{QUEUE}",
        "<AlarmTopic>": f"arn:{partition}:sns:{region}:{ACCOUNT}:{TOPIC}",
        "<Dashboard>": resources["Dashboard"]["DashboardName"],
    }
    outputs = {}
    for name, output in template["Outputs"].items():
        if "Condition" not in output or evaluator.evaluate({"Fn::If": [output["Condition"], True, False]}):
            value = evaluator.evaluate(output["Value"])
            outputs[name] = re.sub(r"<[\w.]+>", lambda match: references[match[0]], value)
    return outputs


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_outputs_are_these_in_every_partition(processed_template: dict[str, Any], partition: str) -> None:
    region, domain, console = PARTITIONS[partition]

    assert outputs_of(processed_template, partition, AlarmEmail="rota@example.com") == {
        "Version": VERSION,
        "FunctionName": FUNCTION,
        "LogGroupName": f"/aws/lambda/{STACK}",
        "DeadLetterQueueUrl": f"https://sqs.{region}.{domain}/{ACCOUNT}/{QUEUE}",
        "AlarmTopicArn": f"arn:{partition}:sns:{region}:{ACCOUNT}:{TOPIC}",
        "DashboardUrl": (
            f"https://{console}/cloudwatch/home?region={region}#dashboards/dashboard/{STACK}-{region}"
        ),
        "SweepCommand": (
            f"aws lambda invoke --region {region} --function-name {FUNCTION} --invocation-type Event "
            """--cli-binary-format raw-in-base64-out --payload '{"repositories":["*"]}' /dev/null"""
        ),
    }


def test_without_an_email_address_there_is_no_topic(processed_template: dict[str, Any]) -> None:
    topic = "arn:aws:sns:eu-west-1:111122223333:on-call"
    every, without = (
        outputs_of(processed_template, AlarmEmail=email, AlarmTopicArn=topic)
        for email in ("rota@example.com", "none")
    )

    assert every.keys() - without.keys() == {"AlarmTopicArn"}


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_sweep_command_starts_a_sweep_of_all_repositories(
    processed_template: dict[str, Any], partition: str
) -> None:
    """The AWS CLI has an option for each member of the request, and writes the response to a file."""
    command = outputs_of(processed_template, partition)["SweepCommand"]
    tool, service, operation, *arguments, file = shlex.split(command)
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    model = get_session().get_service_model(service)
    shape = model.operation_model(operation.capitalize()).input_shape
    assert shape

    assert (tool, file) == ("aws", "/dev/null")
    assert options.pop("--region") == PARTITIONS[partition][0]
    assert options.pop("--cli-binary-format") == "raw-in-base64-out"
    members = {f"--{xform_name(member, '-')}": member for member in shape.members}
    request = {members[option]: value for option, value in options.items()}
    validate_parameters(request, shape)
    assert from_payload(json.loads(request.pop("Payload"))) == Request(("*",), with_registry_policy=True)
    assert request == {"FunctionName": FUNCTION, "InvocationType": "Event"}


def test_the_runbook_lists_the_outputs(processed_template: dict[str, Any]) -> None:
    page = (PROJECT / "docs/operations.md").read_text().replace("\n", " ")
    sentence = re.search(r"the outputs ([^.]+)\.", page)
    assert sentence

    assert {*re.findall(r"`(\w+)`", sentence[1])} == outputs_of(processed_template).keys()


def test_every_output_that_a_page_or_a_script_names_exists(processed_template: dict[str, Any]) -> None:
    pages = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
    scripts = [*PROJECT.glob("devstack/*.py"), *PROJECT.glob("tests/e2e/*.py")]
    named = {
        name
        for path in (*pages, *scripts)
        for groups in re.findall(
            r"outputs?\s`([A-Z]\w+)`|outputs\[\"(\w+)\"\]|OutputKey=='(\w+)'", path.read_text()
        )
        for name in groups
        if name
    }

    assert {"SweepCommand", "FunctionName", "DeadLetterQueueUrl"} <= named
    assert named <= outputs_of(processed_template, AlarmEmail="rota@example.com").keys()

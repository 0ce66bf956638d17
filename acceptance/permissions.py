"""The permissions that an acceptance run needs, each with its step, and which of them the caller lacks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from cli.access import Decision
from cli.diagnose.simulation import interpret
from cli.errors import CliError, sentence_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acceptance.aws import Aws


class Step(NamedTuple):
    """A step of the run, and what it calls.

    Attributes:
        name: what the step does.
        resource: the ARN of what it acts on; `{…}` names a field of the caller's account or the prefix.
        actions: the IAM actions, separated by spaces.
    """

    name: str
    resource: str
    actions: str


_HERE = "{region}:{account}"
STEPS = (
    Step(
        "look at the account",
        "*",
        "ecr:DescribeRepositories cloudformation:DescribeAccountLimits iam:GetAccountSummary "
        "cloudtrail:DescribeTrails cloudtrail:GetTrailStatus cloudtrail:GetEventSelectors",
    ),
    Step(
        "create the bucket of the packages",
        "arn:{partition}:s3:::{prefix}",
        "s3:CreateBucket s3:PutBucketTagging s3:ListBucket s3:ListBucketVersions s3:GetBucketLocation "
        "s3:DeleteBucket",
    ),
    Step(
        "upload the packages",
        "arn:{partition}:s3:::{prefix}/object",
        "s3:PutObject s3:GetObject s3:DeleteObject s3:DeleteObjectVersion",
    ),
    Step(
        "deploy the stacks",
        f"arn:{{partition}}:cloudformation:{_HERE}:stack/{{prefix}}-main/*",
        "cloudformation:CreateChangeSet cloudformation:DescribeChangeSet "
        "cloudformation:ExecuteChangeSet cloudformation:DescribeStacks "
        "cloudformation:DescribeStackEvents cloudformation:DescribeStackResources "
        "cloudformation:GetTemplate cloudformation:DeleteStack",
    ),
    Step(
        "process the template",
        "*",
        "cloudformation:GetTemplateSummary cloudformation:ListStacks cloudformation:DescribeStacks",
    ),
    Step(
        "process the template",
        "arn:{partition}:cloudformation:{region}:aws:transform/Serverless-2016-10-31",
        "cloudformation:CreateChangeSet",
    ),
    Step(
        "deploy and invoke the function",
        f"arn:{{partition}}:lambda:{_HERE}:function:{{prefix}}-main",
        "lambda:CreateFunction lambda:GetFunction lambda:GetFunctionConfiguration "
        "lambda:UpdateFunctionCode lambda:UpdateFunctionConfiguration lambda:DeleteFunction "
        "lambda:AddPermission lambda:RemovePermission lambda:PutFunctionEventInvokeConfig "
        "lambda:DeleteFunctionEventInvokeConfig lambda:PutFunctionRecursionConfig lambda:TagResource "
        "lambda:InvokeFunction",
    ),
    Step(
        "create the roles",
        "arn:{partition}:iam::{account}:role/{prefix}-main",
        "iam:CreateRole iam:GetRole iam:DeleteRole iam:TagRole iam:PutRolePolicy iam:GetRolePolicy "
        "iam:DeleteRolePolicy iam:ListRolePolicies iam:ListAttachedRolePolicies iam:DetachRolePolicy "
        "iam:PassRole sts:AssumeRole",
    ),
    Step(
        "create and change repositories",
        f"arn:{{partition}}:ecr:{_HERE}:repository/{{prefix}}/app",
        "ecr:CreateRepository ecr:DeleteRepository ecr:DescribeRepositories ecr:TagResource "
        "ecr:GetRepositoryPolicy ecr:SetRepositoryPolicy ecr:DeleteRepositoryPolicy "
        "ecr:InitiateLayerUpload ecr:UploadLayerPart ecr:CompleteLayerUpload ecr:PutImage "
        "ecr:BatchGetImage ecr:BatchCheckLayerAvailability",
    ),
    Step(
        "create the repository of the role check",
        f"arn:{{partition}}:ecr:{_HERE}:repository/ecr-allow-pull-role-check/id",
        "ecr:CreateRepository ecr:DeleteRepository ecr:PutLifecyclePolicy",
    ),
    Step(
        "push images",
        "*",
        "ecr:GetAuthorizationToken",
    ),
    Step(
        "create the rules",
        f"arn:{{partition}}:events:{_HERE}:rule/{{prefix}}-main",
        "events:PutRule events:DescribeRule events:DeleteRule events:PutTargets events:RemoveTargets "
        "events:EnableRule events:DisableRule events:ListTargetsByRule",
    ),
    Step(
        "create the rule of new repositories",
        f"arn:{{partition}}:events:{_HERE}:rule/ecr-allow-pull-created-id",
        "events:PutRule events:DescribeRule events:DeleteRule events:PutTargets events:RemoveTargets "
        "events:EnableRule events:DisableRule",
    ),
    Step(
        "create the schedule",
        f"arn:{{partition}}:scheduler:{_HERE}:schedule/default/{{prefix}}-main",
        "scheduler:CreateSchedule scheduler:GetSchedule scheduler:DeleteSchedule",
    ),
    Step(
        "create the queues and receive events",
        f"arn:{{partition}}:sqs:{_HERE}:{{prefix}}-main",
        "sqs:CreateQueue sqs:GetQueueAttributes sqs:SetQueueAttributes sqs:DeleteQueue "
        "sqs:ReceiveMessage sqs:DeleteMessage",
    ),
    Step(
        "create the topics",
        f"arn:{{partition}}:sns:{_HERE}:{{prefix}}-main",
        "sns:CreateTopic sns:GetTopicAttributes sns:DeleteTopic",
    ),
    Step(
        "create and read the logs",
        f"arn:{{partition}}:logs:{_HERE}:log-group:/aws/lambda/{{prefix}}-main:*",
        "logs:CreateLogGroup logs:DeleteLogGroup logs:PutRetentionPolicy logs:FilterLogEvents",
    ),
    Step(
        "save the queries",
        "*",
        "logs:PutQueryDefinition logs:DescribeQueryDefinitions logs:DeleteQueryDefinition",
    ),
    Step(
        "create the alarms",
        f"arn:{{partition}}:cloudwatch:{_HERE}:alarm:{{prefix}}-main",
        "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms cloudwatch:DeleteAlarms",
    ),
    Step(
        "create the dashboard and read the metrics",
        "*",
        "cloudwatch:PutDashboard cloudwatch:GetDashboard cloudwatch:DeleteDashboards "
        "cloudwatch:GetMetricData",
    ),
    Step(
        "find what to delete",
        "*",
        "events:ListRules lambda:ListFunctions sqs:ListQueues sns:ListTopics iam:ListRoles "
        "scheduler:ListSchedules logs:DescribeLogGroups s3:ListAllMyBuckets",
    ),
)
_SESSION = re.compile(r"arn:[^:]+:sts::\d+:assumed-role/([^/]+)/.*")


def denied(aws: Aws, prefix: str) -> Iterator[str]:
    """Yield each action that the caller may not call, with the step that needs it.

    IAM simulates the caller's policies and permissions boundary. It evaluates service control policies only
    in part, and session policies not at all.

    Raises:
        CliError: the caller's permissions cannot be simulated.
    """
    if aws.caller.endswith(":root"):
        return  # the account's root user may do everything
    iam = aws.client("iam")
    context = {
        "ContextKeyName": "aws:RequestedRegion",
        "ContextKeyType": "string",
        "ContextKeyValues": [aws.region],
    }
    fields = {
        "partition": aws.partition,
        "region": aws.region,
        "account": aws.account,
        "prefix": prefix,
    }
    try:
        source = _simulated_principal(aws)
        for step in STEPS:
            pages = iam.get_paginator("simulate_principal_policy").paginate(
                PolicySourceArn=source,
                ActionNames=step.actions.split(),
                ResourceArns=[step.resource.format(**fields)],
                ContextEntries=[context],
            )
            for page in pages:
                for result in page["EvaluationResults"]:
                    if interpret(result).decision in {Decision.DENIED, Decision.NOT_ALLOWED}:
                        yield f"{result['EvalActionName']}, to {step.name}"
    except (BotoCoreError, ClientError) as error:
        raise CliError(
            f"The caller's permissions can't be checked: {sentence_of(error)} Allow iam:GetRole and "
            "iam:SimulatePrincipalPolicy, or add SKIP_PERMISSION_CHECK=1"
        ) from None


def _simulated_principal(aws: Aws) -> str:
    """Return the ARN that IAM simulates: for a session, that of its role, which has a path."""
    session = _SESSION.fullmatch(aws.caller)
    if session is None:
        return aws.caller
    arn: str = aws.client("iam").get_role(RoleName=session[1])["Role"]["Arn"]
    return arn

"""Reads the registry's side of a pull from ECR."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from cli.diagnose.facts import CacheRule, ImageState, RegistryFacts, Unknown
from cli.diagnose.reads import code_of, read
from handler.policy.document import InvalidPolicy, Policy, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mypy_boto3_ecr import ECRClient

    from cli.aws import Aws
    from cli.diagnose.image import Image

_NO_REPOSITORY, _NO_IMAGE = "RepositoryNotFoundException", "ImageNotFoundException"
_NO_POLICY = ("RepositoryPolicyNotFoundException", "RegistryPolicyNotFoundException")
_ROOT = "ROOT"  # the prefix of rules and templates for all repositories


def read_registry(aws: Aws, image: Image, other_regions: Iterable[str]) -> RegistryFacts:
    """Read what decides on the registry's side.

    Raises:
        CliError: a response is not from AWS.
        ClientError: AWS refuses a call for another reason than a missing permission.
        BotoCoreError: AWS cannot be called.
    """
    ecr = aws.ecr(image.region)
    exists = read(lambda: _exists(ecr, image))
    rule = read(lambda: _cache_rule(ecr, image), optional=True)
    registry_policy = read(lambda: _policy(lambda: ecr.get_registry_policy()["policyText"]))
    repository = {"registryId": image.account, "repositoryName": image.repository}
    registry = RegistryFacts(
        repository_exists=exists,
        registry_policy=registry_policy,
        scope=_scope(ecr) if registry_policy else "V2",
        cache_rule=rule,
    )
    if exists is False:
        found = tuple(region for region in other_regions if _exists_in(aws, region, image))
        return replace(registry, other_regions=found)
    return replace(
        registry,
        image=read(lambda: _image_state(ecr, image)),
        policy=read(lambda: _policy(lambda: ecr.get_repository_policy(**repository)["policyText"])),
    )


def _exists(ecr: ECRClient, image: Image) -> bool:
    try:
        page = ecr.describe_repositories(registryId=image.account, repositoryNames=[image.repository])
    except ClientError as error:
        if code_of(error) == _NO_REPOSITORY:
            return False
        raise
    return bool(page["repositories"])


def _exists_in(aws: Aws, region: str, image: Image) -> bool:
    """Return whether another region has the repository. It only helps to correct the address."""
    try:
        return _exists(aws.ecr(region), image)
    except (BotoCoreError, ClientError, KeyError):
        return False


def _image_state(ecr: ECRClient, image: Image) -> ImageState:
    wanted: Any = {"imageDigest": image.digest} if image.digest else {"imageTag": image.tag}
    try:
        page = ecr.describe_images(
            registryId=image.account, repositoryName=image.repository, imageIds=[wanted]
        )
    except ClientError as error:
        if code_of(error) in {_NO_IMAGE, _NO_REPOSITORY}:
            return ImageState.MISSING
        raise
    details = page["imageDetails"]
    if not details:
        return ImageState.MISSING
    return ImageState(details[0].get("imageStatus", "ACTIVE").lower())


def _policy(get: Callable[[], str]) -> Policy | Unknown | None:
    try:
        return parse(get())
    except ClientError as error:
        if code_of(error) in {*_NO_POLICY, _NO_REPOSITORY}:
            return None
        raise
    except InvalidPolicy as error:
        return Unknown(str(error))


def _scope(ecr: ECRClient) -> str | Unknown:
    return read(lambda: ecr.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"], optional=True)


def _cache_rule(ecr: ECRClient, image: Image) -> CacheRule | None:
    """Return the rule with the longest prefix that the repository has."""
    rules = [
        rule
        for page in ecr.get_paginator("describe_pull_through_cache_rules").paginate(registryId=image.account)
        for rule in page["pullThroughCacheRules"]
        if _has_prefix(image.repository, rule["ecrRepositoryPrefix"])
    ]
    if not rules:
        return None
    rule = max(
        rules, key=lambda each: (each["ecrRepositoryPrefix"] != _ROOT, len(each["ecrRepositoryPrefix"]))
    )
    template = read(lambda: _template_policy(ecr, image.repository), optional=True)
    return CacheRule(rule["ecrRepositoryPrefix"], rule["upstreamRegistryUrl"], template)


def _template_policy(ecr: ECRClient, repository: str) -> Policy | Unknown | None:
    """Return the policy that ECR gives to a repository that a cache creates."""
    templates = [
        each
        for page in ecr.get_paginator("describe_repository_creation_templates").paginate()
        for each in page["repositoryCreationTemplates"]
        if "PULL_THROUGH_CACHE" in each.get("appliedFor", ()) and _has_prefix(repository, each["prefix"])
    ]
    if not templates:
        return None
    template = max(templates, key=lambda each: (each["prefix"] != _ROOT, len(each["prefix"])))
    return _policy(lambda: template.get("repositoryPolicy", ""))


def _has_prefix(repository: str, prefix: str) -> bool:
    return prefix == _ROOT or repository.startswith(f"{prefix.rstrip('/')}/")

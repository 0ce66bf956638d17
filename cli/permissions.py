"""The reads that the commands make of each service, which are also the permissions that they use. Pure."""

# `GetCallerIdentity` needs no permission.
READS = {
    "ecr": (
        "DescribeImages",
        "DescribePullThroughCacheRules",
        "DescribeRepositories",
        "DescribeRepositoryCreationTemplates",
        "GetAccountSetting",
        "GetRegistryPolicy",
        "GetRepositoryPolicy",
    ),
    "cloudtrail": ("DescribeTrails", "GetEventSelectors", "GetTrailStatus"),
    "iam": ("GetRole", "SimulatePrincipalPolicy"),
    "sts": ("GetCallerIdentity",),
}
# Without these, there is no plan.
PLAN = ("ecr:DescribeRepositories", "ecr:GetRepositoryPolicy", "ecr:GetRegistryPolicy")


def permission(operation: str) -> str:
    """Return the permission that an operation needs."""
    return next(
        (f"{service}:{operation}" for service, names in READS.items() if operation in names), operation
    )

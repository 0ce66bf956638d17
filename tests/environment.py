"""The environment of the function, as the template sets it, for tests that change one variable."""

WORKER_ROLE = "arn:aws:iam::222222222222:role/unionai-acme-flyteworker-node-group"
ROLE_CHECK_REPOSITORY = "ecr-allow-pull-role-check/00000000-0000-4000-8000-000000000000"
# The tests that need Docker fail without it, instead of being skipped, if this variable is set.
DOCKER_REQUIRED = "DOCKER_REQUIRED"
# The variables without which the function reconciles nothing.
REQUIRED = {
    "WORKER_ROLE_ARNS": WORKER_ROLE,
    "REPOSITORIES": "*",
    "MODE": "enforce",
    "ROLE_NAME": "ecr-allow-pull-Role",
    "ROLE_CHECK_REPOSITORY": ROLE_CHECK_REPOSITORY,
    "POWERTOOLS_SERVICE_NAME": "ecr-allow-pull",
}

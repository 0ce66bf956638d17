"""ECR: its calls, errors and rate limit. The only layer that calls ECR; knows nothing of policies."""

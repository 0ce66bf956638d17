"""The baseline: a minimal implementation with boto3."""

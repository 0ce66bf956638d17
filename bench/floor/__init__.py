"""The floor: the least that does the job with boto3."""

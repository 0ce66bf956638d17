"""Local development without AWS: an embedded AWS, a fake ECR, the Lambda runtime, demo and playground."""

"""Local development without AWS: an embedded AWS, a fake ECR, Lambda's runtime and the demo."""

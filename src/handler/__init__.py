"""Attaches the AllowPull statement to Amazon ECR repository policies."""

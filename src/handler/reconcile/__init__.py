"""Reconcile: brings repositories to the desired state. Uses the policy and ecr layers; logs no results."""

"""Policies: what a policy says, and what it should say. Pure: knows no AWS SDK and no other layer."""

"""Cloud Custodian, with a policy for the same task."""

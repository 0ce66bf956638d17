"""Cloud Custodian, set to the same job."""

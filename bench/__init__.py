"""Measures the function beside bare boto3 and Cloud Custodian: `make bench`."""

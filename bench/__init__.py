"""Benchmarks the function against bare boto3 and Cloud Custodian: `make bench`."""

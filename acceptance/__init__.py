"""Proves the project's promises on AWS, cleans up, and reports what AWS really does."""

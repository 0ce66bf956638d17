"""Scripts that generate documentation and check links."""

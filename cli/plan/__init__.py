"""The command `plan`: what the function would do to a registry."""

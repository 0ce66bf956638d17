"""The command `diagnose`: why a pull is denied, or that it is allowed."""

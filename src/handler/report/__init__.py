"""Report: what one invocation did, as a response, log lines and metrics."""

"""The command line: what people run from a terminal. Uses the handler, and is never in the Lambda package."""

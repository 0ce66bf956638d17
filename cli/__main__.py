"""Starts the command line: `python -m cli`."""

import logging
import sys

try:
    from cli.app import main
    from handler.telemetry import logger

    # Standard output is for the result. The function's code logs only its own bugs in a dry run.
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    sys.exit(main())
except KeyboardInterrupt:  # before or after the command
    sys.exit(130)

"""Starts the command line: `python -m cli`."""

import sys

try:
    from cli.app import main

    sys.exit(main())
except KeyboardInterrupt:  # before or after the command
    sys.exit(130)

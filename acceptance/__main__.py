"""Starts the acceptance run: `python -m acceptance`."""

import sys

from acceptance.app import main

sys.exit(main())

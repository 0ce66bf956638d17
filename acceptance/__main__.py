"""Starts the acceptance run: `python -m acceptance`."""

import sys

from devstack.host import PROJECT

sys.path.append(str(PROJECT / "src"))  # of the function's code, which parts of the command line use

from acceptance.app import main

sys.exit(main())

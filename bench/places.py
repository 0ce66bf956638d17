"""Where things are: the project's files, and what `make bench` set up."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent
BENCH = PROJECT / "bench"
TOOLS = PROJECT / ".tools"
WORK = TOOLS / "bench"  # what the bench makes on the way
BUILT = PROJECT / ".aws-sam/build/Function"
RUNTIME_PYTHON = TOOLS / "runtime/bin/python"
CUSTODIAN = TOOLS / "custodian/bin"
RESULTS = BENCH / "results.json"
QUICK_RESULTS = WORK / "results.json"
PLOT = PROJECT / "docs/performance.svg"

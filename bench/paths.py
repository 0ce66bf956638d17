"""The benchmark's paths."""

from devstack.host import PROJECT

BENCH = PROJECT / "bench"
WORK = PROJECT / ".tools/bench"  # packages, logs and other temporary files
BUILD = PROJECT / ".aws-sam/build/Function"
RUNTIME_PYTHON = PROJECT / ".tools/runtime/bin/python"
CUSTODIAN_BIN = PROJECT / ".tools/custodian/bin"
RESULTS = BENCH / "results.json"
TABLES = BENCH / "results.md"
QUICK_RESULTS = WORK / "results.json"
PLOT = PROJECT / "docs/performance.svg"

#!/bin/sh
# Runs `make plan` for pipelines, with its exact exit codes: make turns each error into 2. Options: --help.
set -eu
cd "$(dirname "$0")/.."
make --silent dev >&2 || exit 1
PYTHONPATH=src exec .tools/dev/bin/python -m scripts.plan "$@"

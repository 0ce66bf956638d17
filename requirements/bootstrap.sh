#!/bin/sh
# Makes the environment of uv, which makes the others: with whichever Python 3 this machine has.
set -eu
environment=$1

# Inside the project pyenv offers only the version of .python-version, and nothing if it lacks that.
for python in python3.13 python3 /usr/bin/python3 python; do
    if "$python" -m venv --clear "$environment" >/dev/null 2>&1; then
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
            --require-hashes --requirement requirements/uv.txt
        exit
    fi
done

rm -rf "$environment"
echo "No Python 3 here can make a virtual environment: install Python 3.13 with its venv module" \
    "(apt install python3-venv, brew install python@3.13 or pyenv install 3.13), then try again." >&2
exit 1

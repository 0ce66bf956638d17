#!/bin/sh
# Installs uv, which creates the other virtual environments, with any Python 3 on this machine.
set -eu
environment=$1

# In this folder, pyenv provides only the version in .python-version, so /usr/bin/python3 is a fallback.
for python in python3.13 python3 /usr/bin/python3 python; do
    if "$python" -m venv --clear "$environment" >/dev/null 2>&1; then
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
            --require-hashes --requirement requirements/uv.txt
        exit
    fi
done

rm -rf "$environment"
echo "No Python 3 on this machine can create a virtual environment. Install Python 3.13 with the venv module" \
    "(apt install python3-venv, brew install python@3.13 or pyenv install 3.13), then try again." >&2
exit 1

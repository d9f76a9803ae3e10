#!/usr/bin/env bash
# Installs the project with its test tools into .venv and runs the tests.
#   bash launch/test.sh                 all tests
#   bash launch/test.sh -m "not slow"   arguments are passed to pytest
#   XLA_FLAGS= bash launch/test.sh      compile as in a real run, which takes twice as long
# Test files run in parallel, on at most four cores, because each process needs some gigabytes.
set -euo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname "$0")/venv.sh" "[dev]"
exec "$python" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"

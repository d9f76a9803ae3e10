#!/usr/bin/env bash
# Installs the project with its test tools into .venv and runs the tests.
#   bash launch/test.sh                 every test
#   bash launch/test.sh -m "not slow"   arguments go to pytest
#   XLA_FLAGS= bash launch/test.sh      programs compiled as users' are: twice as long
# Test files run side by side on the machine's cores, at most four: each takes some gigabytes.
set -euo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname "$0")/venv.sh" "[dev]"
exec "$python" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"

#!/usr/bin/env bash
# Installs the project with its test tools into .venv and runs the tests.
#   bash launch/test.sh                 every test
#   bash launch/test.sh -m "not slow"   arguments go to pytest
set -euo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname "$0")/venv.sh" "[dev]"
exec "$python" -m pytest "$@"

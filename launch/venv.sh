# Sourced by the other scripts: makes .venv beside setup.cfg and installs the project into it.
# PYTHON names the interpreter (default python3); VENV another folder than .venv; extras come as $1.
# An installation that is complete and newer than setup.cfg and constraints.txt is used as it is.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository" || exit 1
venv=${VENV:-$repository/.venv}
extras=${1:-}
stamp=$venv/.installed${extras//[^a-z]/-}

if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.12 $0" >&2
    exit 1
  }
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".$extras"
  touch "$stamp"
fi
python=$venv/bin/python

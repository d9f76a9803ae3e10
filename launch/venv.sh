# Sourced by the other scripts: creates .venv beside setup.cfg, installs the project into it, and sets
# $python. PYTHON is the interpreter to use (default python3), VENV a folder to use instead of .venv,
# and $1 the extras to install, such as "[gpu]".
# Nothing is installed if the last installation is complete and newer than setup.cfg and
# constraints.txt.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository" || exit 1
venv=${VENV:-$repository/.venv}
extras=${1:-}
stamp=$venv/.installed${extras//[^a-z]/-}

if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; choose it with PYTHON=python3.12 $0" >&2
    exit 1
  }
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip
  "$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".$extras"
  touch "$stamp"
fi
python=$venv/bin/python

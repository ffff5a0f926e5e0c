#!/bin/sh
# Make a virtual environment; on Debian and Ubuntu the module for it may have to be installed first.
set -eu
venv=$1
python=${PYTHON:-python3}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if ! command -v "$python" >/dev/null 2>&1; then
    echo "Installing Python (apt-get)"
    as_root apt-get update -qq && as_root apt-get install -y -qq python3 python3-venv >/dev/null
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found $("$python" --version)"; exit 1; }
echo "Making $venv with $("$python" --version)"
if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    echo "Installing the venv module (apt-get)"
    as_root apt-get update -qq && as_root apt-get install -y -qq python3-venv >/dev/null
    "$python" -m venv "$venv"
fi

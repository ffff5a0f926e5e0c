#!/bin/sh
# Install what the app needs: torch first and pinned, then the rest, then what only a CUDA machine can use.
set -eu
pip="$1/bin/pip"
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo "Installing torch (a minute, more on a slow line)"
"$pip" install --quiet ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.txt)"
echo "Installing the rest"
"$pip" install --quiet -r requirements.txt

if command -v nvidia-smi >/dev/null 2>&1 && "$1/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "Installing mamba-ssm for this GPU"
    sh tools/install-mamba.sh "$1" ||
        echo "mamba-ssm could not be installed; the explorer's own operations are used instead"
fi

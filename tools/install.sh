#!/bin/sh
# Install what the app needs: torch first and pinned, then the rest, then what only a CUDA machine can use.
# TORCH_INDEX names where torch's wheels come from. Without it and without an NVIDIA driver they come from CPU_INDEX where that can be
# reached: the default index's wheels bring gigabytes of CUDA libraries.
set -eu
python="$1/bin/python"
pip="$1/bin/pip"
torch=$(grep '^torch==' requirements.txt)
CPU_INDEX=https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK=1

has_driver() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }
# Asked beforehand and for ten seconds at most: pip itself would try an index that does not answer for minutes.
answers() { timeout 10 "$python" -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=5)' "$1/torch/" 2>/dev/null; }
install_torch() { "$pip" install --quiet "$@" "$torch"; }

echo "Installing torch (a minute, more on a slow line)"
if [ -n "${TORCH_INDEX:-}" ]; then
    install_torch --index-url "$TORCH_INDEX"
elif has_driver; then
    install_torch
elif answers "$CPU_INDEX" && install_torch --index-url "$CPU_INDEX"; then
    echo "No NVIDIA driver was found: this is torch's CPU build, from $CPU_INDEX"
else
    install_torch
fi
echo "Installing the rest"
"$pip" install --quiet -r requirements.txt

if has_driver && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "Installing mamba-ssm for this GPU"
    sh tools/install-mamba.sh "$1" ||
        echo "mamba-ssm could not be installed; the explorer's own operations are used instead"
fi

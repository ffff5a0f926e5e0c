#!/bin/sh
# Fill a folder with the wheels that tools/gpu-run.sh needs on a CUDA machine without a network, made on one that has a network and no
# GPU. That machine brings torch, triton, numpy, pandas, einops and pytest with timeout, xdist and hypothesis: none of it is taken along.
#   tools/gpu-wheels.sh DIR [PYTHON]
# PYTHON (default .venv/bin/python) has torch and pip, and makes what exists only as source. There are three folders, since transformers
# changes where it can import the other two: DIR has what hybrid_core needs, DIR/mamba mamba-ssm (Triton alone), DIR/fla FLA.
set -eu
dir=${1:?a folder for the wheels}
python=${2:-.venv/bin/python}
export PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$dir/mamba" "$dir/fla"

pinned() { sed -n "s/^\($1==[^ ;]*\).*/\1/p" requirements*.txt; }
for_gpu_machine() {
    folder=$1
    shift
    "$python" -m pip download --quiet --dest "$folder" --only-binary=:all: --implementation cp --python-version 3.12 \
        --abi cp312 --abi abi3 --abi none --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "$@"
}

for_gpu_machine "$dir" "$(pinned pydantic)" "$(pinned SQLAlchemy)" "$(pinned alembic)" "$(pinned platformdirs)" \
    "$(pinned google-re2)" "$(pinned nvidia-ml-py)" "$(pinned psutil)" yacs termcolor
for_gpu_machine "$dir/fla" --no-deps "$(pinned flash-linear-attention)" "$(pinned fla-core)"
# What exists only as source is pure Python: a wheel that is made here runs there.
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$dir" "$(pinned fvcore)" iopath
MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
    "$python" -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$dir/mamba" "$(pinned mamba-ssm)"
du -sh "$dir"

#!/bin/sh
# mamba-ssm without its compiled extension (its Triton operations and plain-torch references are what is used) and without its
# dependencies (most of them serve other operations). Its build imports torch, so a requirements file cannot install it.
set -eu
pip="$1/bin/pip"
"$pip" install --quiet setuptools==84.2.1 wheel==0.48.0 packaging==26.3 ninja==1.13.2 einops==0.8.2
# torch for CUDA brings the triton it was made for; torch for the CPU brings none.
"$1/bin/python" -c 'import triton' 2>/dev/null || "$pip" install --quiet triton==3.9.0
MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "$pip" install --quiet --no-build-isolation --no-deps -r requirements-gpu.txt

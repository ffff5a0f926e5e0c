"""Where there is no CUDA device, Triton's interpreter runs the kernels; it must be told before the first of them is imported."""

import os

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

"""The list of all families. The family of a config is determined by its fields, never by the
model's name.

A design is exported as the first family in this list that can express it (huggingface.py)."""

from hybrid_core.interop.families import (
    bamba,
    falcon_h1,
    falcon_mamba,
    gemma3,
    gpt_oss,
    granite,
    hymba,
    jamba,
    kimi_linear,
    lfm2,
    llama,
    mamba,
    mamba2,
    mamba_ssm,
    mistral,
    nemotron_h,
    phi4flash,
    qwen2_vl,
    qwen3,
    qwen3_next,
    recurrent_gemma,
    samba,
    zamba,
    zamba2,
)
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written

_ALL: tuple[Family, ...] = (
    llama.FAMILY,
    mistral.FAMILY,
    gemma3.FAMILY,
    gpt_oss.FAMILY,
    qwen2_vl.FAMILY,
    mamba.FAMILY,
    falcon_mamba.FAMILY,
    mamba2.FAMILY,
    bamba.FAMILY,
    jamba.FAMILY,
    zamba.FAMILY,
    zamba2.FAMILY,
    falcon_h1.FAMILY,
    nemotron_h.FAMILY,
    granite.FAMILY,
    hymba.FAMILY,
    phi4flash.FAMILY,
    qwen3_next.FAMILY,
    kimi_linear.FAMILY,
    lfm2.FAMILY,
    recurrent_gemma.FAMILY,
    qwen3.FAMILY,
    mamba_ssm.FAMILY,
    samba.FAMILY,
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL if not family.marks}
# Families without a model_type: their configs are not those of transformers.
NATIVE: dict[str, Family] = {family.name: family for family in _ALL if family.marks}
WRITTEN: dict[str, Written] = {}
TENSORS: dict[str, Tensors] = {}
for _name, _family in FAMILIES.items():
    if _family.written:
        WRITTEN[_name] = _family.written
    if _family.tensors:
        TENSORS[_name] = _family.tensors

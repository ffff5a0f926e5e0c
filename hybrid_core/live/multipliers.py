"""A config's multipliers as factors of a checkpoint's tensors.

Models scaled by muP (Falcon-H1, Granite) multiply activations by constants from their config.json.
ArchSpec.constants stores these under the config's own keys. live/weights.py multiplies the weights
by them instead, so that modules need not know about them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.mamba2 import Mamba2Mixer


def scales(factor: float | Tensor) -> bool:
    """Whether a factor changes anything."""
    return isinstance(factor, Tensor) or factor != 1


def factor(
    spec: ArchSpec,
    key: str,
    part: int,
    rows: int,
) -> float | Tensor:
    """The factor that turns the checkpoint's tensor into ours.

    `part` is the tensor's index in the stack: q, k, v or gate, up.
    """
    if not spec.constants:
        return 1.0
    outside = _outside_factors(spec)
    if key in outside:
        return outside[key]
    name = key.split(".", 2)[-1]
    if name.startswith("mixer.ssm.in_proj."):
        return _in_proj_factor(spec, key, rows)
    is_bias = name.endswith(".bias")
    inside = _inside_factors(spec.constants, part, is_bias)
    owner = name.removesuffix(".weight").removesuffix(".bias")
    return inside.get(owner, 1.0)


def _outside_factors(spec: ArchSpec) -> dict[str, float]:
    """Factors of the tensors outside the layers.

    A tied table includes the embedding's factor, so the last norm divides by it before the logits.
    """
    m = spec.constants
    embedding = float(m.get("embedding_multiplier", 1.0))
    lm_head = m.get("lm_head_multiplier", 1.0)
    logits = float(lm_head / m.get("logits_scaling", 1.0))
    last_norm = logits / embedding if spec.tie_embeddings else 1.0
    return {
        "embed.weight": embedding,
        "head.weight": logits,
        "norm.weight": last_norm,
    }


def _inside_factors(
    m: Mapping[str, Any],
    part: int,
    is_bias: bool,
) -> dict[str, float]:
    """Factors of a layer's tensors, by the name without its last part.

    A factor of the input applies only to the weight, not to the bias.
    """
    into = 1.0 if is_bias else m.get("attention_in_multiplier", 1.0)
    if part == 1:
        into *= m.get("key_multiplier", 1.0)
    gate, down = m.get("mlp_multipliers", (1.0, 1.0))
    residual = m.get("residual_multiplier", 1.0)
    factors = {
        "mixer.attention.qkv": into,
        "mixer.attention_out": m.get("attention_out_multiplier", 1.0),
        "mixer.ssm_out": m.get("ssm_out_multiplier", 1.0),
        "mixer.out": residual,
        "ffn.gate_up": gate if part == 0 else 1.0,
        "ffn.down": down * residual,
        "ffn.shared.down": residual,
    }
    return {name: float(factor) for name, factor in factors.items()}


def _in_proj_factor(spec: ArchSpec, key: str, rows: int) -> float | Tensor:
    """Falcon-H1's factors of z, x, B, C and dt, times that of the input.

    The factor of the input applies only to the weight, not to the bias.
    """
    ssm = ssm_of(spec, key)
    assert isinstance(ssm, Mamba2Mixer)
    is_bias = key.endswith(".bias")
    into = 1.0 if is_bias else spec.constants.get("ssm_in_multiplier", 1.0)
    multipliers = spec.constants.get("ssm_multipliers")
    if multipliers is None:
        return float(into)
    d_bc = ssm.n_groups * ssm.d_state
    widths = torch.tensor([ssm.d_ssm, ssm.d_ssm, d_bc, d_bc, ssm.n_heads])
    own = torch.tensor(multipliers, dtype=torch.float32)
    factors = into * own.repeat_interleave(widths)
    assert len(factors) == rows
    if is_bias:
        return factors
    return factors[:, None]


def ssm_of(spec: ArchSpec, key: str) -> Any:
    """The Mamba mixer of the layer that a tensor belongs to, or the layer's other mixer.

    Returns None for a tensor outside the layers.
    """
    if not key.startswith("layers."):
        return None
    _, index, _ = key.split(".", 2)
    mixer = spec.stack[int(index)].mixer
    return getattr(mixer, "ssm", mixer)

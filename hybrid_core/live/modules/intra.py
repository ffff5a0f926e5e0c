"""The intra-hybrid block: attention heads and Mamba heads on the same input, then fused.

Appendix D of the paper. The closed forms are in mixers/intra.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.attention import AttentionHeads, Seen
from hybrid_core.live.modules.cache import BranchCache, CacheDtypes, KVCache, Position
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.mamba1 import Mamba1Heads
from hybrid_core.live.modules.mamba2 import Mamba2Heads, gated_norm
from hybrid_core.live.modules.norm import GatedRMSNorm, RMSNorm
from hybrid_core.live.modules.swa import WindowHeads
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.swa import SwaMixer
from kernels.branch_fusion import FUSIONS, branch_fusion, fused_branches


class Scale(nn.Module):
    """A learnt vector per branch."""

    def __init__(
        self,
        spec: IntraMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.ones(spec.d_attention))
        self.ssm = nn.Parameter(torch.ones(spec.ssm.d_ssm))

    def forward(
        self,
        x: Tensor,
        attention: Tensor,
        ssm: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return attention * self.attention, ssm * self.ssm


class Gate(nn.Module):
    """A gate per head of either branch: a sigmoid of a projection of the block's input."""

    def __init__(
        self,
        spec: IntraMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__()
        self.heads = [spec.attention.n_heads, spec.ssm.n_heads]
        self.proj = nn.Linear(d_model, sum(self.heads), bias=False)

    def forward(
        self,
        x: Tensor,
        attention: Tensor,
        ssm: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates = torch.sigmoid(self.proj(x))
        attention_gate, ssm_gate = gates.split(self.heads, -1)
        return _per_head(attention, attention_gate), _per_head(ssm, ssm_gate)


def _per_head(branch: Tensor, gate: Tensor) -> Tensor:
    """branch [B, T, H * D] with each head multiplied by its gate [B, T, H]."""
    heads: Tensor = branch.unflatten(-1, (gate.shape[-1], -1))
    return (heads * gate.unsqueeze(-1)).flatten(-2)


class ScaledSsm(DiffLambda):
    """The Differential Transformer's lambda on the second branch."""

    def __init__(
        self,
        spec: IntraMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__(spec.attention.head_dim, layer_index)

    def forward(
        self,
        x: Tensor,
        attention: Tensor,
        ssm: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return attention, ssm * self.factor(ssm.dtype)


SCALARS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "scale": Scale,
    "gate": Gate,
    "diff_t": ScaledSsm,
}


class IntraHybrid(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]. `layer_index` counts from 0."""

    def __init__(
        self,
        spec: IntraMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.attention: AttentionHeads
        if isinstance(spec.attention, SwaMixer):
            self.attention = WindowHeads(spec.attention, d_model)
        else:
            self.attention = AttentionHeads(spec.attention, d_model)
        self.ssm: Mamba1Heads | Mamba2Heads
        self.gate_norm: GatedRMSNorm | None = None
        if isinstance(spec.ssm, Mamba1Mixer):
            self.ssm = Mamba1Heads(spec.ssm, d_model)
        else:
            self.ssm = Mamba2Heads(
                spec.ssm,
                d_model,
                own_x=spec.value == "separate",
            )
            if spec.ssm_norm:
                self.gate_norm = gated_norm(spec.ssm)
        grouped = spec.norm == "group"
        self.attention_norm: RMSNorm | None = None
        self.ssm_norm: RMSNorm | None = None
        if grouped:
            self._add_norms()
        scalar = SCALARS[spec.scalar]
        self.scalar = scalar(spec, d_model, layer_index) if scalar else None
        # A learnt scale right after a norm is folded into the norm's weight.
        folded = grouped and spec.scalar == "scale"
        self.scalar_after_norm = self.scalar is not None and not folded
        joint = spec.out == "joint" and spec.fusion in FUSIONS
        self.fused = grouped and joint and not self.scalar_after_norm
        self._add_out(d_model)

    def _add_norms(self) -> None:
        """A norm per branch, over each head or, with `whole_norm`, over the whole branch."""
        spec = self.spec
        attention_group = spec.attention.v_head_dim
        ssm_group = spec.ssm.d_ssm // spec.ssm.n_heads
        if spec.whole_norm:
            attention_group = spec.d_attention
            ssm_group = spec.ssm.d_ssm
        self.attention_norm = RMSNorm(spec.d_attention, attention_group)
        self.ssm_norm = RMSNorm(spec.ssm.d_ssm, ssm_group)

    def _add_out(self, d_model: int) -> None:
        """The output projection: one per branch, or one after the fusion."""
        spec = self.spec
        attention_bias = spec.attention.out_bias
        ssm_bias = spec.ssm.proj_bias if isinstance(spec.ssm, Mamba1Mixer) else spec.ssm.out_bias
        if spec.out == "separate":
            self.attention_out = nn.Linear(spec.d_attention, d_model, bias=attention_bias)
            self.ssm_out = nn.Linear(spec.ssm.d_ssm, d_model, bias=ssm_bias)
            return
        width = spec.d_attention
        if spec.fusion == "concat":
            width += spec.ssm.d_ssm
        self.out = nn.Linear(width, d_model, bias=attention_bias or ssm_bias)

    def forward(
        self,
        x: Tensor,
        cache: BranchCache | None = None,
        start: Position = 0,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        """`kept`: see `AttentionHeads.attend`."""
        out: Tensor
        keys = cache.attention if cache else None
        attention, values = self._attend(x, keys, start, kept)
        state = cache.ssm if cache else None
        if isinstance(self.ssm, Mamba2Heads):
            y, z = self.ssm.scan(x, state, values)
        else:
            y, z = self.ssm.scan(x, state)
        if self.fused:
            out = self.out(
                fused_branches(
                    attention,
                    y,
                    z,
                    **self._norms(),
                    fusion=self.spec.fusion,
                )
            )
            return out
        if self.attention_norm is not None:
            attention, ssm = branch_fusion(
                attention,
                y,
                z,
                **self._norms(),
            )
        elif self.gate_norm is not None:
            ssm = self.gate_norm(y, z)
        else:
            ssm = y * F.silu(z)
        del y, z
        if self.scalar is not None and self.scalar_after_norm:
            attention, ssm = self.scalar(x, attention, ssm)
        if self.spec.out == "separate":
            return self._fuse(self.attention_out(attention), self.ssm_out(ssm))
        out = self.out(self._fuse(attention, ssm))
        return out

    def _norms(self) -> dict[str, Any]:
        """The arguments of `kernels.branch_fusion` that say how both branches are normalised."""
        attention_norm = self.attention_norm
        ssm_norm = self.ssm_norm
        assert attention_norm is not None and ssm_norm is not None
        scales = None
        if isinstance(self.scalar, Scale):
            scales = (self.scalar.attention, self.scalar.ssm)
        return {
            "attention_weight": attention_norm.weight,
            "ssm_weight": ssm_norm.weight,
            "eps": attention_norm.eps,
            "groups": (attention_norm.group, ssm_norm.group),
            "scales": scales,
        }

    def _attend(
        self,
        x: Tensor,
        cache: KVCache | None,
        start: Position,
        kept: list[Seen] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The attention branch's heads, and its values if the Mamba branch reads them.

        The values are repeated, so that there is one per query head.
        """
        q, k, v = self.attention.project(x, start)
        values = None
        if self.spec.value == "shared":
            queries_per_value = q.shape[2] // v.shape[2]
            values = v.repeat_interleave(queries_per_value, 2).flatten(2)
        heads = self.attention.attend(q, k, v, cache, start, kept)
        return heads, values

    def _fuse(self, attention: Tensor, ssm: Tensor) -> Tensor:
        if self.spec.fusion == "concat":
            return torch.cat([attention, ssm], -1)
        if self.spec.fusion == "add":
            return attention + ssm
        return attention - ssm

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> BranchCache:
        return BranchCache(
            self.attention.new_cache(batch, capacity, dtypes, device),
            self.ssm.new_cache(batch, capacity, dtypes, device),
        )

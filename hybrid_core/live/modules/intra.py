"""The intra-hybrid block: attention heads and Mamba heads on the same input, fused (paper, Appendix
D). Costs: costs/intra.py."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.attention import AttentionHeads, Seen
from hybrid_core.live.modules.cache import BranchCache, CacheDtypes, KVCache, Position
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.mamba1 import Mamba1Heads
from hybrid_core.live.modules.mamba2 import Mamba2Heads, gated_norm
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.live.modules.swa import WindowHeads
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.swa import SwaMixer
from kernels.branch_fusion import FUSIONS, branch_fusion, fused_branches


class Scale(nn.Module):
    """A learnt vector per branch."""

    def __init__(self, spec: IntraMixer, d_model: int, layer_index: int) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.ones(spec.d_attention))
        self.ssm = nn.Parameter(torch.ones(spec.ssm.d_ssm))

    def forward(self, x: Tensor, attention: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:
        return attention * self.attention, ssm * self.ssm


class Gate(nn.Module):
    """A sigmoid of the block's input for every head of either branch."""

    def __init__(self, spec: IntraMixer, d_model: int, layer_index: int) -> None:
        super().__init__()
        self.heads = [spec.attention.n_heads, spec.ssm.n_heads]
        self.proj = nn.Linear(d_model, sum(self.heads), bias=False)

    def forward(self, x: Tensor, attention: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:
        gates = torch.sigmoid(self.proj(x)).split(self.heads, -1)
        gated = (
            branch.unflatten(-1, (n, -1)) * gate.unsqueeze(-1)
            for branch, gate, n in zip((attention, ssm), gates, self.heads, strict=True)
        )
        a, s = (branch.flatten(-2) for branch in gated)
        return a, s


class ScaledSsm(DiffLambda):
    """The Differential Transformer's lambda on the second branch."""

    def __init__(self, spec: IntraMixer, d_model: int, layer_index: int) -> None:
        super().__init__(spec.attention.head_dim, layer_index)

    def forward(self, x: Tensor, attention: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:
        return attention, ssm * self.factor(ssm.dtype)


SCALARS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "scale": Scale,
    "gate": Gate,
    "diff_t": ScaledSsm,
}


class IntraHybrid(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]. `layer_index` counts from 0."""

    def __init__(self, spec: IntraMixer, d_model: int, layer_index: int) -> None:
        super().__init__()
        self.spec = spec
        d_a, d_s = spec.d_attention, spec.ssm.d_ssm
        self.attention = (WindowHeads if isinstance(spec.attention, SwaMixer) else AttentionHeads)(
            spec.attention, d_model
        )
        self.ssm: Mamba1Heads | Mamba2Heads
        self.gate_norm = None
        if isinstance(spec.ssm, Mamba1Mixer):
            self.ssm, ssm_bias = Mamba1Heads(spec.ssm, d_model), spec.ssm.proj_bias
        else:
            self.ssm, ssm_bias = (
                Mamba2Heads(spec.ssm, d_model, own_x=spec.value == "separate"),
                spec.ssm.out_bias,
            )
            self.gate_norm = gated_norm(spec.ssm) if spec.ssm_norm else None
        grouped = spec.norm == "group"
        self.attention_norm = (
            RMSNorm(d_a, None if spec.whole_norm else spec.attention.v_head_dim)
            if grouped
            else None
        )
        self.ssm_norm = (
            RMSNorm(d_s, None if spec.whole_norm else d_s // spec.ssm.n_heads) if grouped else None
        )
        scalar = SCALARS[spec.scalar]
        self.scalar = scalar(spec, d_model, layer_index) if scalar else None
        # A learnt scale after a norm is one with the norm's weight.
        self.scalar_after_norm = self.scalar is not None and not (
            grouped and spec.scalar == "scale"
        )
        self.fused = (
            grouped
            and not self.scalar_after_norm
            and spec.out == "joint"
            and spec.fusion in FUSIONS
        )
        if spec.out == "separate":
            self.attention_out = nn.Linear(d_a, d_model, bias=spec.attention.out_bias)
            self.ssm_out = nn.Linear(d_s, d_model, bias=ssm_bias)
        else:
            biased = spec.attention.out_bias or ssm_bias
            self.out = nn.Linear(
                d_a + d_s if spec.fusion == "concat" else d_a, d_model, bias=biased
            )

    def forward(
        self,
        x: Tensor,
        cache: BranchCache | None = None,
        start: Position = 0,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        """`kept`: see `AttentionHeads.attend`."""
        attention, values = self._attend(x, cache.attention if cache else None, start, kept)
        state = cache.ssm if cache else None
        y, z = (
            self.ssm.scan(x, state, values)
            if isinstance(self.ssm, Mamba2Heads)
            else self.ssm.scan(x, state)
        )
        if self.fused:
            return self.out(
                fused_branches(attention, y, z, **self._norms(), fusion=self.spec.fusion)
            )  # type: ignore[no-any-return]
        if self.attention_norm is not None:
            attention, ssm = branch_fusion(attention, y, z, **self._norms())
        else:
            ssm = y * F.silu(z) if self.gate_norm is None else self.gate_norm(y, z)
        del y, z
        if self.scalar is not None and self.scalar_after_norm:
            attention, ssm = self.scalar(x, attention, ssm)
        if self.spec.out == "separate":
            return self._fuse(self.attention_out(attention), self.ssm_out(ssm))
        return self.out(self._fuse(attention, ssm))  # type: ignore[no-any-return]

    def _norms(self) -> dict[str, Any]:
        """How both branches are normalised, for the operations that do so."""
        a, s = self.attention_norm, self.ssm_norm
        assert a is not None and s is not None
        scales = (
            (self.scalar.attention, self.scalar.ssm) if isinstance(self.scalar, Scale) else None
        )
        return {
            "attention_weight": a.weight,
            "ssm_weight": s.weight,
            "eps": a.eps,
            "groups": (a.group, s.group),
            "scales": scales,
        }

    def _attend(
        self, x: Tensor, cache: KVCache | None, start: Position, kept: list[Seen] | None
    ) -> tuple[Tensor, Tensor | None]:
        """The attention branch's heads, and its values, one per query head, where the other branch
        reads them."""
        q, k, v = self.attention.project(x, start)
        values = (
            v.repeat_interleave(q.shape[2] // v.shape[2], 2).flatten(2)
            if self.spec.value == "shared"
            else None
        )
        return self.attention.attend(q, k, v, cache, start, kept), values

    def _fuse(self, attention: Tensor, ssm: Tensor) -> Tensor:
        if self.spec.fusion == "concat":
            return torch.cat([attention, ssm], -1)
        return attention + ssm if self.spec.fusion == "add" else attention - ssm

    def new_cache(
        self, batch: int, capacity: int, dtypes: CacheDtypes, device: torch.device
    ) -> BranchCache:
        return BranchCache(
            self.attention.new_cache(batch, capacity, dtypes, device),
            self.ssm.new_cache(batch, capacity, dtypes, device),
        )

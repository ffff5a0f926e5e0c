"""The intra-hybrid block: attention heads and Mamba heads read the same input and are fused.

The five fusion axes are those of arXiv 2510.04800, Appendix D. Some settings match published
models: Hymba (arXiv 2411.13676) and Falcon-H1 (arXiv 2507.22448).

Shape letters: B sequences, T tokens, H heads of one branch, D their width, d_a and d_s the widths
of the attention and the Mamba branch. The closed forms are in mixers/intra.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.live.modules.attention import AttentionHeads, Seen
from hybrid_core.live.modules.cache import BranchCache, CacheDtypes, KVCache, Position, SSMCache
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.mamba1 import Mamba1Heads
from hybrid_core.live.modules.mamba2 import Mamba2Heads, gated_norm
from hybrid_core.live.modules.norm import GatedRMSNorm, RMSNorm
from hybrid_core.live.modules.swa import WindowHeads
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from kernels.branch_fusion import FUSIONS, branch_fusion, fused_branches


class Scale(nn.Module):
    """Each channel of a branch times a learnt factor."""

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
    """Each head of a branch times a gate: the sigmoid of a projection of the block's input."""

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
    n_heads = gate.shape[-1]
    heads: Tensor = branch.unflatten(-1, (n_heads, -1))
    gated = heads * gate.unsqueeze(-1)
    return gated.flatten(-2)


class ScaledSsm(DiffLambda):
    """The Mamba branch times the Differential Transformer's lambda."""

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
    """x [B, T, d_model] -> [B, T, d_model]. `layer_index` counts from 0.

    The steps: both branches, a norm for each, scalars, the fusion and the output projection. With
    `out: separate`, each branch has its own projection before the fusion.
    """

    def __init__(
        self,
        spec: IntraMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.attention = _attention_branch(spec, d_model)
        self.ssm = _mamba_branch(spec, d_model)
        self.gate_norm: GatedRMSNorm | None = None
        if spec.ssm_norm and not isinstance(spec.ssm, Mamba1Mixer):
            self.gate_norm = gated_norm(spec.ssm)
        self.attention_norm: RMSNorm | None = None
        self.ssm_norm: RMSNorm | None = None
        if spec.norm == "group":
            self._add_norms()
        self.scalar: nn.Module | None = None
        scalar = SCALARS[spec.scalar]
        if scalar is not None:
            self.scalar = scalar(spec, d_model, layer_index)
        self._choose_steps()
        self._add_out(d_model)

    def _choose_steps(self) -> None:
        """Decide which steps to fuse into one operation."""
        spec = self.spec
        grouped = spec.norm == "group"
        # A learnt scale right after a norm is folded into the norm's weight.
        folded = grouped and spec.scalar == "scale"
        self.scalar_after_norm = self.scalar is not None and not folded
        # A sum or difference before a joint projection is computed together with the norms.
        joint = spec.out == "joint" and spec.fusion in FUSIONS
        self.fused = grouped and joint and not self.scalar_after_norm

    def _add_norms(self) -> None:
        """One norm per branch, over each head or, with `whole_norm`, over the whole branch."""
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
        d_attention = spec.d_attention
        d_ssm = spec.ssm.d_ssm
        attention_bias = spec.attention.out_bias
        ssm_bias = _has_out_bias(spec.ssm)
        if spec.out == "separate":
            self.attention_out = nn.Linear(d_attention, d_model, bias=attention_bias)
            self.ssm_out = nn.Linear(d_ssm, d_model, bias=ssm_bias)
            return
        width = d_attention
        if spec.fusion == "concat":
            width += d_ssm
        has_bias = attention_bias or ssm_bias
        self.out = nn.Linear(width, d_model, bias=has_bias)

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
        y, z = self._scan(x, state, values)
        if self.fused:
            out = self.out(self._fused(attention, y, z))
            return out
        attention, ssm = self._normed(attention, y, z)
        del y, z
        if self.scalar is not None and self.scalar_after_norm:
            attention, ssm = self.scalar(x, attention, ssm)
        if self.spec.out == "separate":
            return self._fuse(
                self.attention_out(attention),
                self.ssm_out(ssm),
            )
        out = self.out(self._fuse(attention, ssm))
        return out

    def _scan(
        self,
        x: Tensor,
        cache: SSMCache | None,
        values: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The Mamba branch's output and its gate, both [B, T, d_s]."""
        if isinstance(self.ssm, Mamba2Heads):
            return self.ssm.scan(x, cache, values)
        return self.ssm.scan(x, cache)

    def _fused(
        self,
        attention: Tensor,
        y: Tensor,
        z: Tensor,
    ) -> Tensor:
        """Norms, scales and fusion of the two branches in one operation: [B, T, d_a]."""
        return fused_branches(
            attention,
            y,
            z,
            **self._norms(),
            fusion=self.spec.fusion,
        )

    def _normed(
        self,
        attention: Tensor,
        y: Tensor,
        z: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Both branches, each normed if it has a norm; the Mamba branch is gated by z."""
        if self.attention_norm is not None:
            return branch_fusion(
                attention,
                y,
                z,
                **self._norms(),
            )
        if self.gate_norm is not None:
            return attention, self.gate_norm(y, z)
        return attention, y * F.silu(z)

    def _norms(self) -> dict[str, Any]:
        """The norms and scales of both branches, as arguments of `kernels.branch_fusion`."""
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
        """The attention branch [B, T, d_a], and its values [B, T, d_s] if the Mamba branch
        reads them.

        The values are repeated so that there is one per query head.
        """
        q, k, v = self.attention.project(x, start)
        values = None
        if self.spec.value == "shared":
            values = _per_query_head(v, n_heads=q.shape[2])
        heads = self.attention.attend(
            q,
            k,
            v,
            cache,
            start,
            kept,
        )
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


def _attention_branch(spec: IntraMixer, d_model: int) -> AttentionHeads:
    if isinstance(spec.attention, SwaMixer):
        return WindowHeads(spec.attention, d_model)
    return AttentionHeads(spec.attention, d_model)


def _mamba_branch(spec: IntraMixer, d_model: int) -> Mamba1Heads | Mamba2Heads:
    if isinstance(spec.ssm, Mamba1Mixer):
        return Mamba1Heads(spec.ssm, d_model)
    own_x = spec.value == "separate"
    return Mamba2Heads(spec.ssm, d_model, own_x)


def _has_out_bias(ssm: Mamba1Mixer | Mamba2Mixer) -> bool:
    if isinstance(ssm, Mamba1Mixer):
        return ssm.proj_bias
    return ssm.out_bias


def _per_query_head(v: Tensor, n_heads: int) -> Tensor:
    """Values [B, T, G, Dv], each repeated for the query heads that share it: [B, T, H * Dv]."""
    queries_per_value = n_heads // v.shape[2]
    return v.repeat_interleave(queries_per_value, 2).flatten(2)

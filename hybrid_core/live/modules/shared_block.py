"""Zamba's layer: a Transformer block that several layers share, before the layer's own Mamba.

Zamba (arXiv 2405.16712) has one shared block before Mamba-1 layers. Zamba2 (arXiv 2411.15242) has
two before Mamba-2 layers, with low-rank adapters for each layer.

Shape letters: B sequences, T tokens. The closed forms are in mixers/shared_block.py.
"""

import torch
from torch import Tensor, nn

from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.live.modules.attention import Attention
from hybrid_core.live.modules.cache import BranchCache, CacheDtypes, Position
from hybrid_core.live.modules.ffn import GatedFFN
from hybrid_core.live.modules.mamba1 import Mamba1
from hybrid_core.live.modules.mamba2 import Mamba2
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.shared_block import SharedBlockMixer


class Transformer(nn.Module):
    """The shared part: attention over x and the embeddings, then a feed-forward.

    It has no residual connections.
    """

    def __init__(
        self,
        spec: SharedBlockMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__()
        assert isinstance(spec.ffn, SwiGLU)
        self.norm = RMSNorm(spec.attention.d_input or d_model)
        self.attention = Attention(spec.attention, d_model, layer_index)
        self.ffn_norm = RMSNorm(d_model)
        self.ffn = GatedFFN(spec.ffn, d_model)


class Adapter(nn.Module):
    """A low-rank product [.., d_in] -> [.., d_out], to be added to the output of a projection."""

    def __init__(self, d_in: int, rank: int, d_out: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(d_in, rank, bias=False)
        self.wide = nn.Linear(rank, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wide(self.narrow(x))
        return out


class SharedBlock(nn.Module):
    """The shared block in `before`, then the layer's own Mamba in `forward`.

    The output of `before` is added to the layer's input, and `forward` reads the norm of that sum.
    HybridLM gives layers with the same `spec.block` the same `block`. The adapters, `linear` and
    the Mamba mixer belong to a single layer.
    """

    def __init__(
        self,
        spec: SharedBlockMixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.block = Transformer(spec, d_model, layer_index)
        self.linear = nn.Linear(d_model, d_model, bias=False)
        self.ssm: Mamba1 | Mamba2
        if isinstance(spec.ssm, Mamba1Mixer):
            self.ssm = Mamba1(spec.ssm, d_model, layer_index)
        else:
            self.ssm = Mamba2(spec.ssm, d_model, layer_index)
        self.ffn_adapter: Adapter | None = None
        self.qkv_adapters: nn.ModuleList | None = None
        if spec.adapter_rank:
            self._add_adapters(spec.adapter_rank)

    def _add_adapters(self, rank: int) -> None:
        """Adapters of the feed-forward's first matrices and, if asked for, of q, k and v."""
        gate_up = self.block.ffn.gate_up
        self.ffn_adapter = Adapter(
            gate_up.in_features,
            rank,
            gate_up.out_features,
        )
        if not self.spec.attention_adapters:
            return
        attention = self.block.attention
        d_input = attention.qkv.in_features
        adapters = (Adapter(d_input, rank, width) for width in attention.widths)
        self.qkv_adapters = nn.ModuleList(adapters)

    def before(
        self,
        x: Tensor,
        embedded: Tensor,
        cache: BranchCache | None,
        start: Position,
    ) -> Tensor:
        """The shared block's output for x, and the embeddings of the same tokens.

        All [B, T, d_model].
        """
        doubled = self.block.norm(torch.cat([x, embedded], -1))
        extra = self._qkv_extra(doubled)
        keys = cache.attention if cache else None
        attended = self.block.attention(doubled, keys, start, extra)
        hidden = self.block.ffn_norm(attended)
        extra = None
        if self.ffn_adapter is not None:
            extra = self.ffn_adapter(hidden)
        out: Tensor = self.linear(self.block.ffn(hidden, extra))
        return out

    def _qkv_extra(self, doubled: Tensor) -> Tensor | None:
        """The adapters' output for q, k and v, concatenated; None without adapters."""
        if self.qkv_adapters is None:
            return None
        shares = [adapter(doubled) for adapter in self.qkv_adapters]
        return torch.cat(shares, -1)

    def forward(
        self,
        x: Tensor,
        cache: BranchCache | None = None,
        start: Position = 0,
    ) -> Tensor:
        out: Tensor = self.ssm(x, cache.ssm if cache else None, start)
        return out

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> BranchCache:
        return BranchCache(
            self.block.attention.new_cache(batch, capacity, dtypes, device),
            self.ssm.new_cache(batch, capacity, dtypes, device),
        )

"""Costs of layers made of several mixers: Zamba's shared block before an SSM, and mixers side by side.

A part of a layer builds its costs through the registry, which passes itself as `of`, since it stands above these files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hybrid_core.costs import ffn
from hybrid_core.costs.attention import AttentionCosts
from hybrid_core.costs.mamba1 import Mamba1Costs
from hybrid_core.costs.mamba2 import Mamba2Costs
from hybrid_core.costs.terms import CacheTensor, MixerCosts, Num, Terms, product, renamed, widest
from hybrid_core.spec import Mamba1Mixer, SharedBlockMixer, SideBySideMixer, SwiGLU
from hybrid_core.workload import Workload


@dataclass(frozen=True)
class SharedBlockCosts:
    """A shared Transformer block, its adapters and projection, and the SSM that reads the sum."""

    spec: SharedBlockMixer
    d_model: int

    @cached_property
    def attention(self) -> AttentionCosts:
        return AttentionCosts(self.spec.attention, self.d_model)

    @cached_property
    def ssm(self) -> Mamba1Costs | Mamba2Costs:
        s = self.spec.ssm
        return Mamba1Costs(s, self.d_model) if isinstance(s, Mamba1Mixer) else Mamba2Costs(s, self.d_model)

    def shared_params(self) -> dict[Any, int]:
        """What layers with the same block have in common: the block with its norms, of the doubled input and before the feed-forward."""
        s = self.spec
        block = sum(self.attention.params().values()) + ffn.params(s.ffn, self.d_model) + self.attention.d_in + self.d_model
        return {("shared_block", s.block): block}

    def params(self) -> dict[str, int]:
        own = {
            "block": sum(self.shared_params().values()),
            "adapters": self.spec.adapter_rank * self._adapter_ends,
            "linear": self.d_model**2,
        }
        return own | {f"ssm {part}": n for part, n in self.ssm.params().items()}

    @property
    def _adapter_ends(self) -> int:
        """Channels that the low-rank pairs join: beside the feed-forward's way in, and beside queries, keys and values."""
        s, a = self.spec, self.attention
        if not s.adapter_rank:
            return 0
        widened = (2 if isinstance(s.ffn, SwiGLU) else 1) * getattr(s.ffn, "d_ff", 0)
        ends = self.d_model + widened
        if s.attention_adapters:
            ends += 3 * a.d_in + a.d_qkv
        return ends

    def forward_flops(self, seq_len: Num) -> Terms:
        return self._flops(seq_len, self.attention.forward_flops(seq_len), self.ssm.forward_flops(seq_len))

    def decode_flops(self, context_len: Num) -> Terms:
        return self._flops(1, self.attention.decode_flops(context_len), self.ssm.decode_flops(context_len))

    def _flops(self, tokens: Num, attention: Terms, ssm: Terms) -> Terms:
        block = attention + ffn.forward_flops(self.spec.ffn, self.d_model, tokens)
        ends = self._adapter_ends
        adapters = [product("adapters", tokens, self.spec.adapter_rank, ends)] if ends else []
        joined = product("linear", tokens, self.d_model, self.d_model)
        return [*renamed(block, "block"), *adapters, joined, *renamed(ssm, "ssm")]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.cache(context_len) + self.ssm.cache(context_len)

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.reads(context_len) + self.ssm.reads(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        return self.attention.paper_train_flops(context_len) + self.ssm.paper_train_flops(context_len)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return self.attention.paper_cache_bytes(context_len) + self.ssm.paper_cache_bytes(context_len)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Beside the layer's input: the doubled input and its norm with the attention, the feed-forward, or the SSM with its input."""
        width = workload.element_bytes
        rows = seq_len * width
        return rows * self.attention.d_in + widest(
            rows * self.attention.d_in + self.attention.workspace(seq_len, workload),
            rows * 2 * self.d_model + ffn.workspace(self.spec.ffn, self.d_model, seq_len, width),
            rows * 2 * self.d_model + self.ssm.workspace(seq_len, workload),
        )


@dataclass(frozen=True)
class SideBySideCosts:
    """The sum of complete mixers. `of`: the registry's way from a mixer to its costs."""

    spec: SideBySideMixer
    d_model: int
    of: Callable[[Any, int], MixerCosts]

    @cached_property
    def branches(self) -> list[MixerCosts]:
        return [self.of(branch, self.d_model) for branch in self.spec.branches]

    def params(self) -> dict[str, int]:
        """Parts of the branches: those of the same name are added."""
        added: dict[str, int] = {}
        for branch in self.branches:
            for part, n in branch.params().items():
                added[part] = added.get(part, 0) + n
        return added

    def forward_flops(self, seq_len: Num) -> Terms:
        return [term for branch in self.branches for term in branch.forward_flops(seq_len)]

    def decode_flops(self, context_len: Num) -> Terms:
        return [term for branch in self.branches for term in branch.decode_flops(context_len)]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return [tensor for branch in self.branches for tensor in branch.cache(context_len)]

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return [tensor for branch in self.branches for tensor in branch.reads(context_len)]

    def paper_train_flops(self, context_len: Num) -> Num:
        return sum(branch.paper_train_flops(context_len) for branch in self.branches)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return sum(branch.paper_cache_bytes(context_len) for branch in self.branches)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        return widest(*(branch.workspace(seq_len, workload) for branch in self.branches))

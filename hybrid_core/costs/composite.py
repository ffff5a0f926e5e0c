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
from hybrid_core.costs.terms import CacheTensor, MixerCosts, Num, linear, widest
from hybrid_core.spec import Mamba1Mixer, SharedBlockMixer, SideBySideMixer, SwiGLU
from hybrid_core.workload import DTYPE_BYTES, Workload


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
        own = {"block": sum(self.shared_params().values()), "adapters": self._adapters, "linear": self.d_model**2}
        return own | {f"ssm {part}": n for part, n in self.ssm.params().items()}

    @property
    def _adapters(self) -> int:
        """Low-rank pairs beside the feed-forward's way in, and beside queries, keys and values."""
        s, a = self.spec, self.attention
        if not s.adapter_rank:
            return 0
        widened = (2 if isinstance(s.ffn, SwiGLU) else 1) * getattr(s.ffn, "d_ff", 0)
        ends = self.d_model + widened
        if s.attention_adapters:
            ends += 3 * a.d_in + a.d_qkv
        return s.adapter_rank * ends

    def forward_flops(self, seq_len: Num) -> dict[str, Num]:
        return self._flops(seq_len, self.attention.forward_flops(seq_len), self.ssm.forward_flops(seq_len))

    def decode_flops(self, context_len: Num) -> dict[str, Num]:
        return self._flops(1, self.attention.decode_flops(context_len), self.ssm.decode_flops(context_len))

    def _flops(self, tokens: Num, attention: dict[str, Num], ssm: dict[str, Num]) -> dict[str, Num]:
        own = {
            "block ffn": ffn.forward_flops(self.spec.ffn, self.d_model, tokens),
            "adapters": 2 * tokens * self._adapters,
            "linear": linear(tokens, self.d_model, self.d_model),
        }
        named = {f"block {part}" if part != "attention" else part: n for part, n in attention.items()}
        own |= {f"ssm {part}" if part not in ("scan", "conv") else part: n for part, n in ssm.items()}
        return named | {part: n for part, n in own.items() if part != "adapters" or self._adapters}

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.cache(context_len) + self.ssm.cache(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        return self.attention.paper_train_flops(context_len) + self.ssm.paper_train_flops(context_len)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return self.attention.paper_cache_bytes(context_len) + self.ssm.paper_cache_bytes(context_len)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Beside the layer's input: the doubled input and its norm with the attention, the feed-forward, or the SSM with its input."""
        width = DTYPE_BYTES[workload.weight_dtype]
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
        return self._named(lambda branch: branch.params())

    def forward_flops(self, seq_len: Num) -> dict[str, Num]:
        return self._named(lambda branch: branch.forward_flops(seq_len))

    def decode_flops(self, context_len: Num) -> dict[str, Num]:
        return self._named(lambda branch: branch.decode_flops(context_len))

    def _named(self, question: Callable[[MixerCosts], dict[str, Num]]) -> dict[str, Num]:
        """Parts of the branches: those of the same name are added."""
        total: dict[str, Num] = {}
        for branch in self.branches:
            for part, n in question(branch).items():
                total[part] = total.get(part, 0) + n
        return total

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return [tensor for branch in self.branches for tensor in branch.cache(context_len)]

    def paper_train_flops(self, context_len: Num) -> Num:
        return sum(branch.paper_train_flops(context_len) for branch in self.branches)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return sum(branch.paper_cache_bytes(context_len) for branch in self.branches)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        return widest(*(branch.workspace(seq_len, workload) for branch in self.branches))

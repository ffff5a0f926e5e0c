"""Zamba's layer: a shared Transformer block before an SSM. Twin of live/modules/shared_block.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.ffns.base import FfnCosts
from hybrid_core.ffns.registry import Ffn
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.attention import AttentionCosts, AttentionMixer, RopeScaling
from hybrid_core.mixers.base import MIXER, Entry, Mixer
from hybrid_core.mixers.mamba1 import MAMBA1_MATRICES, Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.terms import CacheTensor, MixerCosts, Num, Terms, product, renamed, widest
from hybrid_core.validation import Count, quiet
from hybrid_core.workload import Workload

# Products of the block are called `block ...`, those of the layer's own SSM `ssm ...`.
_MATRICES = (
    "block q",
    "block k",
    "block v",
    "block out",
    "block ffn.gate",
    "block ffn.up",
    "block ffn.down",
    "adapters",
    "linear",
    *(f"ssm {name}" for name in MAMBA1_MATRICES),
)


class SharedBlockMixer(Mixer):
    """Zamba's layer: a Transformer block whose weights layers share, then an SSM of the layer's own
    that reads its input and the block's output, projected. The block reads the layer's input beside
    the embeddings: twice d_model (`attention.d_input`).

    Layers with the same `block` share its weights. `adapter_rank`: low-rank adapters of this
    layer's own on the block's feed-forward, and on its queries, keys and values too where
    `attention_adapters`."""

    entry: ClassVar[Entry] = Entry(
        name="shared_block",
        meaning="Zamba's layer: a Transformer block that layers share, then a Mamba of its own.",
        label="Shared block and SSM",
        letter="Z",
        colour="#8C564B",
        module="hybrid_core.live.modules.shared_block:SharedBlock",
        built=frozenset({"adapter_rank", "attention_adapters"}),
        built_inside=frozenset({"d_input"}),
        matrices=_MATRICES,
    )
    block: Count
    attention: Annotated[AttentionMixer, *MIXER]
    ffn: Ffn
    ssm: Annotated[Mamba2Mixer | Mamba1Mixer, *MIXER]
    adapter_rank: Count = quiet(0)
    attention_adapters: bool = quiet(False)

    @property
    def rope(self) -> tuple[int, float, RopeScaling | None] | None:
        """The shared block's."""
        return self.attention.rope

    def costs(self, d_model: int) -> "SharedBlockCosts":
        return SharedBlockCosts(self, d_model)

    def unbuilt(self) -> Iterator[str]:
        if not isinstance(self.ffn, SwiGLU):
            yield f"shared_block.ffn: {self.ffn.kind}"
        if self.attention.reuse_kv:
            yield "shared_block.attention.reuse_kv: True"

    def shrunk(self, factors: Factors) -> Self:
        rank = self.adapter_rank
        return self.changed(
            adapter_rank=scaled(rank, factors.width) if rank else 0,
            attention=self.attention.shrunk(factors),
            ffn=self.ffn.shrunk(factors),
            ssm=self.ssm.shrunk(factors),
        )


@dataclass(frozen=True)
class SharedBlockCosts:
    """A shared Transformer block, its adapters and projection, and the SSM that reads the sum."""

    spec: SharedBlockMixer
    d_model: int

    @cached_property
    def attention(self) -> AttentionCosts:
        return self.spec.attention.costs(self.d_model)

    @cached_property
    def ffn(self) -> FfnCosts:
        return self.spec.ffn.costs(self.d_model)

    @cached_property
    def ssm(self) -> MixerCosts:
        return self.spec.ssm.costs(self.d_model)

    def shared_params(self) -> dict[Any, int]:
        """What layers with the same block have in common: the block with its norms, of the doubled
        input and before the feed-forward."""
        s = self.spec
        block = (
            sum(self.attention.params().values())
            + self.ffn.params()
            + self.attention.d_in
            + self.d_model
        )
        return {("shared_block", s.block): block}

    def params(self) -> dict[str, int]:
        own = {
            "block": sum(self.shared_params().values()),
            "adapters": self.spec.adapter_rank * self._adapter_ends,
            "linear": self.d_model**2,
        }
        return own | {f"ssm {part}": n for part, n in self.ssm.params().items()}

    @cached_property
    def _adapter_ends(self) -> int:
        """Channels that the low-rank pairs join: beside the feed-forward's way in, and beside
        queries, keys and values."""
        s, a = self.spec, self.attention
        if not s.adapter_rank:
            return 0
        widened = (2 if isinstance(s.ffn, SwiGLU) else 1) * getattr(s.ffn, "d_ff", 0)
        ends = self.d_model + widened
        if s.attention_adapters:
            ends += 3 * a.d_in + a.d_qkv
        return ends

    def forward_flops(self, seq_len: Num) -> Terms:
        return self._flops(
            seq_len, self.attention.forward_flops(seq_len), self.ssm.forward_flops(seq_len)
        )

    def decode_flops(self, context_len: Num) -> Terms:
        return self._flops(
            1, self.attention.decode_flops(context_len), self.ssm.decode_flops(context_len)
        )

    def _flops(self, tokens: Num, attention: Terms, ssm: Terms) -> Terms:
        block = attention + self.ffn.forward_flops(tokens)
        ends = self._adapter_ends
        adapters = [product("adapters", tokens, self.spec.adapter_rank, ends)] if ends else []
        joined = product("linear", tokens, self.d_model, self.d_model)
        return [*renamed(block, "block"), *adapters, joined, *renamed(ssm, "ssm")]

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.cache(context_len) + self.ssm.cache(context_len)

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.reads(context_len) + self.ssm.reads(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        return self.attention.paper_train_flops(context_len) + self.ssm.paper_train_flops(
            context_len
        )

    def paper_cache_bytes(self, context_len: Num) -> Num:
        return self.attention.paper_cache_bytes(context_len) + self.ssm.paper_cache_bytes(
            context_len
        )

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """Beside the layer's input: the doubled input and its norm with the attention, the
        feed-forward, or the SSM with its input."""
        width = workload.element_bytes
        rows = seq_len * width
        return rows * self.attention.d_in + widest(
            rows * self.attention.d_in + self.attention.workspace(seq_len, workload),
            rows * 2 * self.d_model + self.ffn.workspace(seq_len, width),
            rows * 2 * self.d_model + self.ssm.workspace(seq_len, workload),
        )

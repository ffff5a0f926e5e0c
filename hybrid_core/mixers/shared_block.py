"""Zamba's layer: a Transformer block shared between layers, then an SSM. Twin of
live/modules/shared_block.py."""

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

# Matrices of the block are called `block ...`, those of the layer's own SSM `ssm ...`.
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
    """Zamba's layer: a Transformer block whose weights are shared between layers, then the layer's
    own SSM. The block reads the layer's input concatenated with the embeddings, so its input is 2
    d_model wide (`attention.d_input`). The SSM reads the layer's input plus the projected output of
    the block.

    Layers with the same `block` share its weights. `adapter_rank`: rank of each layer's own
    adapters on the block's feed-forward. `attention_adapters`: adapters on its queries, keys and
    values too."""

    entry: ClassVar[Entry] = Entry(
        name="shared_block",
        meaning="Zamba's layer: a Transformer block shared between layers, then its own Mamba.",
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
        """The settings that determine the RoPE tables of the block's attention."""
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
        if rank:
            rank = scaled(rank, factors.width)
        return self.changed(
            adapter_rank=rank,
            attention=self.attention.shrunk(factors),
            ffn=self.ffn.shrunk(factors),
            ssm=self.ssm.shrunk(factors),
        )


@dataclass(frozen=True)
class SharedBlockCosts:
    """A shared Transformer block, this layer's adapters and projection, and its SSM."""

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
        """Parameters of the block, which layers with the same `block` share. It has a norm over the
        doubled input and one before the feed-forward."""
        norms = self.attention.d_in + self.d_model
        attention = sum(self.attention.params().values())
        return {("shared_block", self.spec.block): attention + self.ffn.params() + norms}

    def params(self) -> dict[str, int]:
        own = {
            "block": sum(self.shared_params().values()),
            "adapters": self.spec.adapter_rank * self._adapter_ends,
            "linear": self.d_model**2,
        }
        return own | {f"ssm {part}": n for part, n in self.ssm.params().items()}

    @cached_property
    def _adapter_ends(self) -> int:
        """Input and output channels of all adapters together: one adapter on the feed-forward's
        first matrix, and one each on queries, keys and values."""
        s = self.spec
        if not s.adapter_rank:
            return 0
        ways_in = 2 if isinstance(s.ffn, SwiGLU) else 1  # gate and up
        ends = self.d_model + ways_in * getattr(s.ffn, "d_ff", 0)
        if s.attention_adapters:
            ends += 3 * self.attention.d_in + self.attention.d_qkv
        return ends

    def forward_flops(self, seq_len: Num) -> Terms:
        attention = self.attention.forward_flops(seq_len)
        return self._flops(seq_len, attention, self.ssm.forward_flops(seq_len))

    def decode_flops(self, context_len: Num) -> Terms:
        attention = self.attention.decode_flops(context_len)
        return self._flops(1, attention, self.ssm.decode_flops(context_len))

    def _flops(self, tokens: Num, attention: Terms, ssm: Terms) -> Terms:
        terms = renamed(attention + self.ffn.forward_flops(tokens), "block")
        ends = self._adapter_ends
        if ends:
            terms.append(product("adapters", tokens, self.spec.adapter_rank, ends))
        terms.append(product("linear", tokens, self.d_model, self.d_model))
        return terms + renamed(ssm, "ssm")

    def cache(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.cache(context_len) + self.ssm.cache(context_len)

    def reads(self, context_len: Num) -> list[CacheTensor]:
        return self.attention.reads(context_len) + self.ssm.reads(context_len)

    def paper_train_flops(self, context_len: Num) -> Num:
        attention = self.attention.paper_train_flops(context_len)
        return attention + self.ssm.paper_train_flops(context_len)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        attention = self.attention.paper_cache_bytes(context_len)
        return attention + self.ssm.paper_cache_bytes(context_len)

    def workspace(self, seq_len: Num, workload: Workload) -> Num:
        """The peak is in the attention, the feed-forward or the SSM
        (live/modules/shared_block.py)."""
        width = workload.element_bytes
        channel = seq_len * width  # bytes of one channel of all tokens
        doubled = channel * self.attention.d_in  # input and embeddings, concatenated
        two_streams = channel * 2 * self.d_model  # a part's input, and its norm
        return doubled + widest(
            doubled + self.attention.workspace(seq_len, workload),  # plus the norm of `doubled`
            two_streams + self.ffn.workspace(seq_len, width),
            two_streams + self.ssm.workspace(seq_len, workload),
        )

"""The model of a design: embedding, blocks of mixer and feed-forward, head.

Blocks are pre-norm, as in Llama (arXiv 2302.13971). Meta tokens are those of Hymba (arXiv
2411.13676). Layers that reuse the keys and values of an earlier one follow Hymba's sharing.

Shape letters: B sequences, T tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.design.built import require_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer, key_value_heads
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.live.modules.attention import Attention, Seen
from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache, CacheDtypes, Position
from hybrid_core.live.modules.intra import IntraHybrid
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.live.modules.shared_block import SharedBlock, Transformer
from hybrid_core.loading import load
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.none import NoMixer

INIT_STD = 0.02


def feed_forward(ffn: AnyFfn, d_model: int) -> nn.Module:
    """The module of a feed-forward: gated, plain, or a mixture of experts."""
    module: nn.Module = load(ffn.entry.module)(ffn, d_model)
    return module


def _mixer_module(mixer: Mixer, d_model: int, index: int) -> nn.Module:
    """The module of a mixer in layer `index`, counted from 0."""
    assert mixer.entry.module, f"{mixer.kind} is costed, not built"
    module: nn.Module = load(mixer.entry.module)(mixer, d_model, index)
    return module


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)), for x [B, T, d_model]. Either may be missing."""

    def __init__(self, layer: Layer, d_model: int, index: int) -> None:
        super().__init__()
        self.has_mixer = not isinstance(layer.mixer, NoMixer)
        if self.has_mixer:
            self.mixer_norm = RMSNorm(d_model)
        self.mixer = _mixer_module(layer.mixer, d_model, index)
        if layer.ffn is not None:
            self.ffn_norm = RMSNorm(d_model)
            self.ffn = feed_forward(layer.ffn, d_model)
        self.has_ffn = layer.ffn is not None
        self.has_keys = isinstance(self.mixer, Attention | IntraHybrid)

    def forward(
        self,
        x: Tensor,
        cache: Any,
        start: Position,
        embedded: Tensor | None = None,
        kept: list[Seen] | None = None,
    ) -> Tensor:
        """`embedded`: see `SharedBlock.before`; `kept`: see `AttentionHeads.attend`."""
        out: Tensor
        if not self.has_mixer:
            out = x + self.ffn(self.ffn_norm(x))
            return out
        read = x
        if embedded is not None and isinstance(self.mixer, SharedBlock):
            read = x + self.mixer.before(x, embedded, cache, start)
        if not self.has_ffn:
            out = x + self._mixed(read, cache, start, kept)
            return out
        # The sum with the residual and its norm are one operation. The mixer's output is not bound
        # to a name, so that it can be freed before the feed-forward runs.
        normed, out = self.ffn_norm.add(
            self._mixed(read, cache, start, kept),
            x,
        )
        out = out + self.ffn(normed)
        return out

    def _mixed(
        self,
        x: Tensor,
        cache: Any,
        start: Position,
        kept: list[Seen] | None,
    ) -> Tensor:
        """The mixer's output for the norm of x, [B, T, d_model]."""
        out: Tensor
        if self.has_keys:
            out = self.mixer(self.mixer_norm(x), cache, start, kept=kept)
        else:
            out = self.mixer(self.mixer_norm(x), cache, start)
        return out


class HybridLM(nn.Module):
    """tokens [B, T] -> logits [B, T, vocab_size]."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Embedding(spec.vocab_size, spec.d_model)
        self.meta: nn.Parameter | None = None
        if spec.meta_tokens:
            self.meta = nn.Parameter(torch.empty(spec.meta_tokens, spec.d_model))
        self.layers = nn.ModuleList()
        for index, layer in enumerate(spec.stack):
            self.layers.append(Block(layer, spec.d_model, index))
        self.norm = RMSNorm(spec.d_model)
        self.head: nn.Linear | None = None
        if not spec.tie_embeddings:
            self.head = nn.Linear(spec.d_model, spec.vocab_size, bias=False)
        self.reads_embedding = self._share_blocks()
        self.reuses_keys = _reuses_keys(spec)
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.eps = spec.norm_eps

    def _share_blocks(self) -> bool:
        """Give layers with the same shared block the same module. Returns whether there are any."""
        shared: dict[int, Transformer] = {}
        for layer in self.layers:
            mixer = layer.mixer
            if isinstance(mixer, SharedBlock):
                mixer.block = shared.setdefault(mixer.spec.block, mixer.block)
        return bool(shared)

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Continue the text in `cache`, if given, and add the tokens to it.

        With `last_only`, the logits are those of the last position, [B, 1, vocab_size].
        """
        start = 0
        if cache is not None:
            cache.room_for(tokens.shape[1])
            start = cache.length
        logits = self.continue_from(tokens, cache, start, last_only)
        if cache is not None:
            cache.length += tokens.shape[1]
        return logits

    def continue_from(
        self,
        tokens: Tensor,
        cache: Cache | None,
        start: Position,
        last_only: bool = False,
    ) -> Tensor:
        """`forward` from position `start`. The cache's length is neither read nor changed."""
        x = self._hidden(tokens, cache, start)
        if last_only:
            x = x[:, -1:]
        x = self.norm(x)
        if self.head is None:
            return F.linear(x, self.embed.weight)
        logits: Tensor = self.head(x)
        return logits

    def _hidden(
        self,
        tokens: Tensor,
        cache: Cache | None,
        start: Position,
    ) -> Tensor:
        """The output of the last layer for `tokens`, [B, T, d_model].

        A cache already contains the meta tokens; without a cache they run through the layers here.
        """
        if cache is not None:
            return self._through_layers(
                self.embed(tokens),
                cache,
                start + self.spec.meta_tokens,
            )
        if self.meta is None:
            return self._through_layers(self.embed(tokens), None, start)
        with_meta = torch.cat([self._meta(tokens.shape[0]), self.embed(tokens)], 1)
        return self._through_layers(with_meta, None, start)[:, self.spec.meta_tokens :]

    def _meta(self, batch_size: int) -> Tensor:
        """The learnt tokens before every sequence, [batch_size, meta_tokens, d_model]."""
        assert self.meta is not None
        return self.meta.expand(batch_size, -1, -1)

    def _through_layers(
        self,
        x: Tensor,
        cache: Cache | None,
        start: Position,
    ) -> Tensor:
        embedded = x if self.reads_embedding else None
        kept: list[Seen] | None = [] if self.reuses_keys else None
        caches = [None] * len(self.layers) if cache is None else cache.layers
        for layer, own_cache in zip(self.layers, caches, strict=True):
            x = layer(x, own_cache, start, embedded, kept)
        return x

    @torch.no_grad()
    def new_cache(
        self,
        batch_size: int,
        capacity: int,
        kv_dtype: torch.dtype | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> Cache:
        """A cache on the model's device that has seen the meta tokens and nothing else.

        Keys and values have the weights' dtype unless `kv_dtype` is given. States have
        `state_dtype` if given, else the design's `state_dtype`, else the weights' dtype.
        """
        weight = self.embed.weight
        dtypes = CacheDtypes(
            kv=kv_dtype or weight.dtype,
            state=state_dtype or self._state_dtype(),
            conv=weight.dtype,
        )
        slots = capacity + self.spec.meta_tokens
        layers = []
        for layer in self.layers:
            mixer: Any = layer.mixer
            layers.append(mixer.new_cache(batch_size, slots, dtypes, weight.device))
        cache = Cache(layers, capacity)
        if self.meta is not None:
            self._through_layers(self._meta(batch_size), cache, 0)
        return cache

    def _state_dtype(self) -> torch.dtype:
        """The default dtype of scan states."""
        if self.spec.state_dtype:
            return TORCH_DTYPES[self.spec.state_dtype]
        return self.embed.weight.dtype

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw all weights.

        Normal with std 0.02, and smaller by sqrt(2 n_layers) in projections into the residual
        stream, as in GPT-2; norms are 1. Modules that define `initialise` come last.
        """
        residual_std = INIT_STD * (2 * self.spec.n_layers) ** -0.5
        for name, parameter in self.named_parameters():
            _draw(name, parameter, residual_std)
        for module in self.modules():
            own: Any = getattr(module, "initialise", None)
            if own is not None and module is not self:
                own()


def _reuses_keys(spec: ArchSpec) -> bool:
    """Whether any layer attends to the keys and values of an earlier one."""
    heads = [key_value_heads(layer) for layer in spec.stack]
    return any(attention.reuse_kv for attention in heads if attention)


def _draw(name: str, parameter: Tensor, residual_std: float) -> None:
    """Draw one parameter, by the last part of its name, or the part before `weight`."""
    words = name.split(".")
    last = words[-1]
    if last == "weight":
        last = words[-2]
    if "norm" in last or last in ("attention", "ssm"):  # norms, and the vectors of `scale`
        parameter.fill_(1.0)
    elif last in ("out", "attention_out", "ssm_out", "down"):
        _normal(parameter, residual_std)
    elif last == "vectors":  # lambda of the Differential Transformer, as in its published code
        _normal(parameter, 0.1)
    elif last == "bias":  # modules with a scan draw its bias later
        parameter.zero_()
    elif parameter.ndim > 1 and last != "conv_weight":
        _normal(parameter, INIT_STD)


def _normal(parameter: Tensor, std: float) -> None:
    """Fill with normal values, drawn in float32 block by block, then rounded.

    On a CPU, this is faster than drawing in half precision.
    """
    flat = parameter.view(-1)
    block_len = min(flat.numel(), 2**20)
    block = torch.empty(block_len, device=flat.device)
    for piece in flat.split(block_len):
        drawn = block[: piece.numel()].normal_(0.0, std)
        piece.copy_(drawn)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` torch's default inside the context, so that parameters get it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers of `device`, and restore their state afterwards.

    torch.manual_seed would seed every device.
    """
    generator = torch.default_generator
    if device.type == "cuda":
        generator = torch.cuda.default_generators[device.index]
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


def build(
    spec: ArchSpec,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> HybridLM:
    """The model of a design on `device`, initialised with `seed`, in evaluation mode.

    On "meta" it has shapes but no data. Raises SpecError for a design that can be costed but not
    built.
    """
    require_built(spec)
    with torch.device("meta"), _default_dtype(dtype):
        model = HybridLM(spec)
    if torch.device(device).type == "meta":
        return model.eval()
    model = model.to_empty(device=device)
    with _seeded(seed, model.embed.weight.device):
        model.initialise()
    return model.eval()

"""The model that a design describes: embedding, blocks of mixer and feed-forward, head."""

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
from hybrid_core.live.modules.shared_block import SharedBlock
from hybrid_core.loading import load
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.none import NoMixer

INIT_STD = 0.02


def feed_forward(ffn: AnyFfn, d_model: int) -> nn.Module:
    """The module of a feed-forward."""
    module: nn.Module = load(ffn.entry.module)(ffn, d_model)
    return module


def mixer_module(mixer: Mixer, d_model: int, index: int) -> nn.Module:
    """The module of a mixer in layer `index` (from 0), which has one."""
    assert mixer.entry.module, f"{mixer.kind} is costed, not built"
    module: nn.Module = load(mixer.entry.module)(mixer, d_model, index)
    return module


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); either may be missing."""

    def __init__(self, layer: Layer, d_model: int, index: int) -> None:
        super().__init__()
        self.has_mixer = not isinstance(layer.mixer, NoMixer)
        if self.has_mixer:
            self.mixer_norm = RMSNorm(d_model)
        self.mixer = mixer_module(layer.mixer, d_model, index)
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
        out: Tensor
        own = {"kept": kept} if self.has_keys else {}
        if not self.has_mixer:
            out = x + self.ffn(self.ffn_norm(x))
            return out
        read = x
        if embedded is not None and isinstance(self.mixer, SharedBlock):
            read = x + self.mixer.before(x, embedded, cache, start)
        if not self.has_ffn:
            out = x + self.mixer(self.mixer_norm(read), cache, start, **own)
            return out
        normed, out = self.ffn_norm.add(self.mixer(self.mixer_norm(read), cache, start, **own), x)
        out = out + self.ffn(normed)
        return out


class HybridLM(nn.Module):
    """tokens [B, T] -> logits [B, T, vocab_size]."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Embedding(spec.vocab_size, spec.d_model)
        self.meta = (
            nn.Parameter(torch.empty(spec.meta_tokens, spec.d_model)) if spec.meta_tokens else None
        )
        self.layers = nn.ModuleList(
            Block(layer, spec.d_model, i) for i, layer in enumerate(spec.stack)
        )
        self.norm = RMSNorm(spec.d_model)
        self.head = (
            None if spec.tie_embeddings else nn.Linear(spec.d_model, spec.vocab_size, bias=False)
        )
        self.reads_embedding = self._share_blocks()
        self.reuses_keys = any(
            attention.reuse_kv for attention in map(key_value_heads, spec.stack) if attention
        )
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.eps = spec.norm_eps

    def _share_blocks(self) -> bool:
        """Give layers with the same shared block the same module; whether there are any."""
        shared: dict[int, nn.Module] = {}
        for layer in self.layers:
            mixer: Any = layer.mixer
            if isinstance(mixer, SharedBlock):
                mixer.block = shared.setdefault(mixer.spec.block, mixer.block)  # type: ignore[assignment]
        return bool(shared)

    def forward(
        self, tokens: Tensor, cache: Cache | None = None, last_only: bool = False
    ) -> Tensor:
        """Continue from `cache`, if given, and fill it. `last_only`: logits of the last position
        alone, [B, 1, vocab_size]."""
        start = 0
        if cache is not None:
            cache.room_for(tokens.shape[1])
            start = cache.length
        logits = self.continue_from(tokens, cache, start, last_only)
        if cache is not None:
            cache.length += tokens.shape[1]
        return logits

    def continue_from(
        self, tokens: Tensor, cache: Cache | None, start: Position, last_only: bool = False
    ) -> Tensor:
        """`forward` from position `start`, whatever the cache says of its length, which stays as it
        is."""
        if cache is not None:
            x = self._through_layers(self.embed(tokens), cache, start + self.spec.meta_tokens)
        elif self.meta is not None:
            x = self._through_layers(
                torch.cat([self._meta(tokens.shape[0]), self.embed(tokens)], 1), None, start
            )
            x = x[:, self.spec.meta_tokens :]
        else:
            x = self._through_layers(self.embed(tokens), None, start)
        x = self.norm(x[:, -1:] if last_only else x)
        logits: Tensor = F.linear(x, self.embed.weight) if self.head is None else self.head(x)
        return logits

    def _meta(self, batch_size: int) -> Tensor:
        """The learnt tokens before every sequence."""
        assert self.meta is not None
        return self.meta.expand(batch_size, -1, -1)

    def _through_layers(self, x: Tensor, cache: Cache | None, start: Position) -> Tensor:
        embedded = x if self.reads_embedding else None
        kept: list[Seen] | None = [] if self.reuses_keys else None
        for i, layer in enumerate(self.layers):
            x = layer(x, cache.layers[i] if cache is not None else None, start, embedded, kept)
        return x

    @torch.no_grad()
    def new_cache(
        self,
        batch_size: int,
        capacity: int,
        kv_dtype: torch.dtype | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> Cache:
        """A cache on the model's device that has seen the meta tokens and nothing else. Unless
        given, keys and values are in the weights' dtype, and states in the design's own
        (`ArchSpec.state_dtype`), or else the weights', too."""
        weight = self.embed.weight
        own_state = TORCH_DTYPES[self.spec.state_dtype] if self.spec.state_dtype else weight.dtype
        dtypes = CacheDtypes(
            kv=kv_dtype or weight.dtype, state=state_dtype or own_state, conv=weight.dtype
        )
        mixers: Iterator[Any] = (layer.mixer for layer in self.layers)
        slots = capacity + self.spec.meta_tokens
        cache = Cache(
            [mixer.new_cache(batch_size, slots, dtypes, weight.device) for mixer in mixers],
            capacity,
        )
        if self.meta is not None:
            self._through_layers(self._meta(batch_size), cache, 0)
        return cache

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal with std 0.02, projections into the residual stream smaller by sqrt(2 n_layers);
        norms 1; then each module its own way."""
        residual_std = INIT_STD * (2 * self.spec.n_layers) ** -0.5
        for name, parameter in self.named_parameters():
            last = name.split(".")[-2] if name.endswith(".weight") else name.split(".")[-1]
            if "norm" in last or last in ("attention", "ssm"):  # norms, and the vectors of `scale`
                parameter.fill_(1.0)
            elif last in ("out", "attention_out", "ssm_out", "down"):
                _normal(parameter, residual_std)
            elif last == "vectors":  # lambda of the Differential Transformer
                _normal(parameter, 0.1)
            elif last == "bias":  # those of scans are drawn by their own modules
                parameter.zero_()
            elif parameter.ndim > 1 and last != "conv_weight":
                _normal(parameter, INIT_STD)
        for module in self.modules():
            own: Any = getattr(module, "initialise", None)
            if own is not None and module is not self:
                own()


def _normal(parameter: Tensor, std: float) -> None:
    """Normal values drawn in float32 and rounded once, block by block: faster on a CPU than drawing
    in half precision."""
    flat = parameter.view(-1)
    block = torch.empty(min(flat.numel(), 2**20), device=flat.device)
    for piece in flat.split(block.numel()):
        piece.copy_(block[: piece.numel()].normal_(0.0, std))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Parameters are made in `dtype`; what asks for a dtype of its own keeps it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of `device` from a seed, and afterwards as if none had been drawn.
    torch.manual_seed would seed every device."""
    generator = (
        torch.cuda.default_generators[device.index]
        if device.type == "cuda"
        else torch.default_generator
    )
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
    """The model of a design, initialised with `seed`, on `device`. On "meta" it has shapes and no
    data. Raises SpecError for a design that is costed and not built."""
    require_built(spec)
    with torch.device("meta"), _default_dtype(dtype):
        model = HybridLM(spec)
    if torch.device(device).type == "meta":
        return model.eval()
    model = model.to_empty(device=device)
    with _seeded(seed, model.embed.weight.device):
        model.initialise()
    return model.eval()

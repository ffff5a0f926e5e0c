"""The model that a design describes: embedding, blocks of mixer and feed-forward, head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_core.modules.cache import Cache, CacheDtypes, Position
from hybrid_core.modules.ffn import GatedFFN
from hybrid_core.modules.moe import MixtureOfExperts
from hybrid_core.modules.norm import RMSNorm
from hybrid_core.registry import kind_of
from hybrid_core.spec import ArchSpec, Layer, SwiGLU

INIT_STD = 0.02


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, layer: Layer, d_model: int, index: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(d_model)
        self.mixer = kind_of(layer.mixer).load_module()(layer.mixer, d_model, index)
        if layer.ffn is not None:
            self.ffn_norm = RMSNorm(d_model)
            self.ffn = GatedFFN(layer.ffn, d_model) if isinstance(layer.ffn, SwiGLU) else MixtureOfExperts(layer.ffn, d_model)
        self.has_ffn = layer.ffn is not None

    def forward(self, x: Tensor, cache: object, start: Position) -> Tensor:
        mixed: Tensor
        if not self.has_ffn:
            mixed = x + self.mixer(self.mixer_norm(x), cache, start)
            return mixed
        normed, mixed = self.ffn_norm.add(self.mixer(self.mixer_norm(x), cache, start), x)
        mixed = mixed + self.ffn(normed)
        return mixed


class HybridLM(nn.Module):
    """tokens [B, T] -> logits [B, T, vocab_size]."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Embedding(spec.vocab_size, spec.d_model)
        self.layers = nn.ModuleList(Block(layer, spec.d_model, i) for i, layer in enumerate(spec.stack))
        self.norm = RMSNorm(spec.d_model)
        self.head = None if spec.tie_embeddings else nn.Linear(spec.d_model, spec.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.eps = spec.norm_eps

    def forward(self, tokens: Tensor, cache: Cache | None = None, last_only: bool = False) -> Tensor:
        """Continue from `cache`, if given, and fill it. `last_only`: logits of the last position alone, [B, 1, vocab_size]."""
        start = 0
        if cache is not None:
            cache.room_for(tokens.shape[1])
            start = cache.length
        logits = self.continue_from(tokens, cache, start, last_only)
        if cache is not None:
            cache.length += tokens.shape[1]
        return logits

    def continue_from(self, tokens: Tensor, cache: Cache | None, start: Position, last_only: bool = False) -> Tensor:
        """`forward` from position `start`, whatever the cache says of its length, which stays as it is."""
        x = self.embed(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, cache.layers[i] if cache is not None else None, start)
        x = self.norm(x[:, -1:] if last_only else x)
        logits: Tensor = F.linear(x, self.embed.weight) if self.head is None else self.head(x)
        return logits

    def new_cache(
        self, batch_size: int, capacity: int, kv_dtype: torch.dtype | None = None, state_dtype: torch.dtype = torch.float32
    ) -> Cache:
        """An empty cache on the model's device; keys and values in the weights' dtype unless given."""
        weight = self.embed.weight
        dtypes = CacheDtypes(kv=kv_dtype or weight.dtype, state=state_dtype, conv=weight.dtype)
        mixers: Iterator[Any] = (layer.mixer for layer in self.layers)
        return Cache([mixer.new_cache(batch_size, capacity, dtypes, weight.device) for mixer in mixers], capacity)

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal with std 0.02, projections into the residual stream smaller by sqrt(2 n_layers); norms 1; then each module its own way."""
        residual_std = INIT_STD * (2 * self.spec.n_layers) ** -0.5
        for name, parameter in self.named_parameters():
            last = name.split(".")[-2] if name.endswith(".weight") else name.split(".")[-1]
            if "norm" in last or last in ("attention", "ssm"):  # norms, and the vectors of `scale`
                parameter.fill_(1.0)
            elif last in ("out", "attention_out", "ssm_out", "down"):
                _normal(parameter, residual_std)
            elif last == "vectors":  # lambda of the Differential Transformer
                _normal(parameter, 0.1)
            elif parameter.ndim > 1 and last != "conv_weight":
                _normal(parameter, INIT_STD)
        for module in self.modules():
            own: Any = getattr(module, "initialise", None)
            if own is not None and module is not self:
                own()


def _normal(parameter: Tensor, std: float) -> None:
    """Normal values drawn in float32 and rounded once, block by block: faster on a CPU than drawing in half precision."""
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


def build(spec: ArchSpec, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> HybridLM:
    """The model of a design, initialised with `seed`, on `device`. On "meta" it has shapes and no data."""
    with torch.device("meta"), _default_dtype(dtype):
        model = HybridLM(spec)
    if torch.device(device).type == "meta":
        return model.eval()
    model = model.to_empty(device=device)
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        model.initialise()
    return model.eval()

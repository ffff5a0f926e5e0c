"""Costs of a whole model: sums of its layers' closed forms, in two conventions.

`exact` counts what live/modules/ computes: every matrix product and scan of the forward pass, and
each cache tensor with its real shape and dtype. Causal attention counts the pairs that the mask
allows. `paper` is Table 1 and Appendix C of arXiv 2510.04800v3."""

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid_core.design.sections import LayersSection
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.base import FfnCosts
from hybrid_core.ffns.registry import ffn_costs
from hybrid_core.mixers.base import Entry
from hybrid_core.mixers.none import NoMixer
from hybrid_core.terms import CacheKind, CacheTensor, MixerCosts, Num, Terms, lengths, linear, total
from hybrid_core.validation import MAX_LAYERS
from hybrid_core.workload import DTYPE_BYTES, Workload

Convention = Literal["paper", "exact"]


class Params(NamedTuple):
    """Parameter counts. `embedding` holds the input table and an untied head; `active` is what one
    token uses, embedding included."""

    total: int
    embedding: int
    non_embedding: int
    active: int


class LayerCosts(NamedTuple):
    """One layer's closed forms: mixer, feed-forward and their norms."""

    layer: Layer
    mixer: MixerCosts
    ffn: FfnCosts
    d_model: int
    norm_params: int = 0  # parameters of the norms around mixer and feed-forward
    meta_tokens: int = 0  # learnt tokens at the start of every sequence

    @property
    def kind(self) -> Entry:
        return self.layer.mixer.entry

    def windowed(self, seq_len: Num) -> bool | NDArray[np.bool_]:
        """Whether a forward pass over `seq_len` tokens has to mask a window."""
        window = getattr(self.layer.mixer, "window", None)
        return seq_len > (np.inf if window is None else window)

    def params(self) -> int:
        mixer = sum(self.mixer.params().values())
        return mixer + self.ffn.params() + self.norm_params

    def shared_params(self) -> dict[Any, int]:
        """The part of `params` that is shared with other layers, by a key that these layers have in
        common."""
        shared: dict[Any, int] = getattr(self.mixer, "shared_params", dict)()
        return shared

    def idle_params(self) -> int:
        return self.ffn.idle_params()

    def forward_flops(self, seq_len: Num) -> Terms:
        seq_len = seq_len + self.meta_tokens
        return self.mixer.forward_flops(seq_len) + self.ffn.forward_flops(seq_len)

    def decode_flops(self, context_len: Num) -> Terms:
        mixer = self.mixer.decode_flops(context_len + self.meta_tokens)
        return mixer + self.ffn.forward_flops(1)

    def cache_bytes(self, context_len: Num, workload: Workload) -> Num:
        return _held_bytes(self.mixer.cache(context_len + self.meta_tokens), workload)

    def read_bytes(self, context_len: Num, workload: Workload) -> Num:
        """Bytes of the caches that a decode step of one sequence reads. If the layer reuses an
        earlier layer's cache, that cache counts."""
        return _held_bytes(self.mixer.reads(context_len + self.meta_tokens), workload)

    def kv_bytes(self, context_len: Num, workload: Workload) -> Num:
        """The part of the cache that holds keys and values."""
        tensors = self.mixer.cache(context_len + self.meta_tokens)
        return _held_bytes([tensor for tensor in tensors if tensor.kind == "kv"], workload)

    @property
    def keeps_kv(self) -> bool:
        """Whether the layer keeps its own keys and values."""
        return any(tensor.kind == "kv" for tensor in self.mixer.cache(1))

    def state_bytes(self, workload: Workload) -> Num:
        """Bytes of the cache that each decode step rewrites. They do not depend on the context."""
        tensors = self.mixer.cache(1)
        return _held_bytes([tensor for tensor in tensors if tensor.kind != "kv"], workload)

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """The paper's convention: every element two bytes."""
        return self.mixer.paper_cache_bytes(context_len + self.meta_tokens)


def _held_bytes(tensors: list[CacheTensor], workload: Workload) -> Num:
    """Bytes of cache tensors. Keys and values have the cache's dtype, scan states the state dtype,
    and convolution inputs the dtype of the products."""
    return sum(tensor.elements * _element_bytes(tensor.kind, workload) for tensor in tensors)


def _element_bytes(kind: CacheKind, workload: Workload) -> float:
    """Bytes of one element of a cache tensor."""
    if kind == "kv":
        return DTYPE_BYTES[workload.kv_cache_dtype]
    if kind == "state":
        return DTYPE_BYTES[workload.scan_dtype]
    return DTYPE_BYTES[workload.product_dtype]


class ModelCosts:
    """The closed forms of one design. Sums run over distinct layers, so a deep model takes no
    longer than a shallow one."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        self._counts = [(self._layer(layer), n) for layer, n in spec.distinct.items()]
        # Equal layers of a stack are one object, so they share one LayerCosts.
        by_id = {id(costs.layer): costs for costs, _ in self._counts}
        self.layers: tuple[LayerCosts, ...] = tuple(by_id[id(layer)] for layer in spec.stack)

    def _layer(self, layer: Layer) -> LayerCosts:
        spec = self.spec
        parts = (layer.mixer != NoMixer()) + (layer.ffn is not None)
        norms_per_part = 2 if spec.post_norm else 1
        return LayerCosts(
            layer=layer,
            mixer=layer.mixer.costs(spec.d_model),
            ffn=ffn_costs(layer.ffn, spec.d_model),
            d_model=spec.d_model,
            norm_params=self._norm * parts * norms_per_part,
            meta_tokens=spec.meta_tokens,
        )

    @property
    def _norm(self) -> int:
        """Parameters of one norm over the residual stream: a weight, and a bias in a LayerNorm."""
        return self.spec.d_model * (2 if self.spec.norm == "layer" else 1)

    def _sum(self, question: Callable[[LayerCosts], Num]) -> Num:
        return sum(n * question(layer) for layer, n in self._counts)

    def distinct(self) -> Iterator[tuple[LayerCosts, int]]:
        """Each distinct layer and its number of occurrences in the stack."""
        return iter(self._counts)

    def params(self) -> Params:
        """Exact counts; `non_embedding` includes every norm."""
        return self._params

    @cached_property
    def _params(self) -> Params:
        table = self.spec.vocab_size * self.spec.d_model
        embedding = table if self.spec.tie_embeddings else 2 * table
        in_layers = int(self._sum(LayerCosts.params)) - self._repeated()
        non_embedding = in_layers + self.params_outside_layers()
        everything = non_embedding + embedding
        return Params(
            total=everything,
            embedding=embedding,
            non_embedding=non_embedding,
            active=everything - self._idle,
        )

    @cached_property
    def _idle(self) -> int:
        """Parameters that one token does not use."""
        return int(self._sum(LayerCosts.idle_params))

    def params_outside_layers(self) -> int:
        """Parameters of the last norm, the learnt tokens, and everything outside the language
        model."""
        meta_tokens = self.spec.meta_tokens * self.spec.d_model
        return self._norm + meta_tokens + self.spec.outside_params

    def _repeated(self) -> int:
        """Parameters that the layers' counts include more than once, because layers share them."""
        counted = 0
        kept: dict[Any, int] = {}
        for layer, n in self._counts:
            for key, params in layer.shared_params().items():
                counted += n * params
                kept[key] = params
        return counted - sum(kept.values())

    def head_flops(self, tokens: Num) -> Num:
        """FLOPs of the product with the vocabulary matrix."""
        return linear(tokens, self.spec.d_model, self.spec.vocab_size)

    def forward_flops(self, seq_len: Num, logits: Num | None = None) -> Num:
        """Exact FLOPs of one sequence's forward pass, with logits for every position or only for
        the last `logits` positions."""
        seq_len = lengths(seq_len)
        body = self._sum(lambda layer: total(layer.forward_flops(seq_len)))
        return body + self.head_flops(seq_len if logits is None else logits)

    def decode_flops(self, context_len: Num) -> Num:
        """Exact FLOPs of one decode step of one sequence; the new token is number `context_len`."""
        context_len = lengths(context_len)
        body = self._sum(lambda layer: total(layer.decode_flops(context_len)))
        return body + self.head_flops(1)

    def train_flops_per_token(self, context_len: Num, convention: Convention) -> Num:
        """FLOPs of forward and backward pass per token. `paper`: 6 N_nonembedding plus the mixers'
        own terms, without the head. `exact`: three times the exact forward pass."""
        context_len = lengths(context_len)
        if convention == "exact":
            return 3 * self.forward_flops(context_len) / context_len
        active = self.params().non_embedding - self._idle
        return 6 * active + self._sum(lambda layer: layer.mixer.paper_train_flops(context_len))

    def cache_bytes(
        self, context_len: Num, convention: Convention, workload: Workload | None = None
    ) -> Num:
        """Bytes of one sequence's cache; `paper` is always bf16, `exact` follows the workload's
        dtypes."""
        context_len = lengths(context_len)
        if convention == "paper":
            return self._sum(lambda layer: layer.paper_cache_bytes(context_len))
        asked = (workload or Workload()).of(self.spec)
        return self._sum(lambda layer: layer.cache_bytes(context_len, asked))


@lru_cache(maxsize=256)
def model_costs(spec: ArchSpec) -> ModelCosts:
    """`ModelCosts`, cached per design."""
    return ModelCosts(spec)


SAME_SIZE = "Llama of the same size"


@lru_cache(maxsize=256)
def same_size_llama(spec: ArchSpec) -> ArchSpec:
    """A Transformer with the design's widths and about the same number of parameters. If even
    MAX_LAYERS layers have fewer, it is the deepest such model, under another name.

    Sections that the design lacks are taken from the paper (Table 8): heads of 64, four of which
    share keys and values; d_ff = 4 d_model."""
    heads = max(1, spec.d_model // 64)
    kv_heads = heads // 4 if heads % 4 == 0 else heads
    paper_attention = {"n_heads": heads, "n_kv_heads": kv_heads, "head_dim": 64}
    llama = spec.replace(
        name=SAME_SIZE,
        n_layers=1,
        layers=LayersSection(strategy="transformer"),
        attention=spec.attention or paper_attention,
        ffn=spec.ffn or {"kind": "swiglu", "d_ff": 4 * spec.d_model},
    )
    one = _non_embedding(llama, 1)
    per_layer = _non_embedding(llama, 2) - one  # all layers are alike
    layers = 1 + (model_costs(spec).params().non_embedding - one) / per_layer
    name = SAME_SIZE if layers < MAX_LAYERS + 1 else "largest Llama of its width"
    return llama.replace(n_layers=_possible(layers), name=name)


def _non_embedding(spec: ArchSpec, n_layers: int) -> int:
    """Non-embedding parameters of a design at another depth."""
    return ModelCosts(spec.replace(n_layers=n_layers)).params().non_embedding


def _possible(n_layers: float) -> int:
    """The nearest allowed number of layers."""
    return max(1, min(MAX_LAYERS, round(n_layers)))


def fit_depth(spec: ArchSpec, target_params: float) -> ArchSpec:
    """The design with the number of layers whose non-embedding parameters come closest to
    `target_params`.

    The layers must be given by strategy and ratio. This is how the paper compares 16 Transformer,
    14 (1:1) and 13 layers at 1B."""
    if spec.layers.pattern is not None or spec.layers.indices is not None:
        raise ValueError(
            "layers: given one by one - "
            "fitting the depth needs a strategy with a ratio and a placement"
        )
    guess = spec.n_layers
    for _ in range(4):  # the mean layer size changes with the depth, less each time
        guess = _possible(guess * target_params / _non_embedding(spec, guess))
    near = range(_possible(guess - 3), _possible(guess + 3) + 1)
    closest = min(near, key=lambda n: abs(_non_embedding(spec, n) - target_params))
    return spec.replace(n_layers=closest)

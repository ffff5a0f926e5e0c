"""Costs of a whole model: sums of its layers' closed forms, in the paper's convention and in the
exact one.

`exact` is what modules/ does: every matrix product and scan of the forward pass, and each cache
tensor with its real shape and dtype. Causal attention counts the pairs that the mask lets through.
`paper` is Table 1 and Appendix C of arXiv 2510.04800v3."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from hybrid_core.design.sections import LayersSection
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.ffns.base import FfnCosts
from hybrid_core.ffns.registry import ffn_costs
from hybrid_core.mixers.base import Entry
from hybrid_core.mixers.none import NoMixer
from hybrid_core.terms import CacheTensor, MixerCosts, Num, Terms, lengths, linear, total
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
    norm_params: int = 0  # of the norms around mixer and feed-forward
    meta_tokens: int = 0  # learnt tokens that stand before every sequence

    @property
    def kind(self) -> Entry:
        return self.layer.mixer.entry

    def windowed(self, seq_len: Num) -> Num:
        """Whether a forward over `seq_len` tokens has to mask a window."""
        window = getattr(self.layer.mixer, "window", None)
        return seq_len > (np.inf if window is None else window)

    def params(self) -> int:
        return sum(self.mixer.params().values()) + self.ffn.params() + self.norm_params

    def shared_params(self) -> dict[Any, int]:
        """Those among `params` that layers with the same key have in common."""
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
        return sum(
            tensor_bytes(tensor, workload)
            for tensor in self.mixer.cache(context_len + self.meta_tokens)
        )

    def read_bytes(self, context_len: Num, workload: Workload) -> Num:
        """Bytes of the caches that a step of one sequence reads, an earlier layer's among them
        where this one reuses it."""
        return sum(
            tensor_bytes(tensor, workload)
            for tensor in self.mixer.reads(context_len + self.meta_tokens)
        )

    def paper_cache_bytes(self, context_len: Num) -> Num:
        """The paper's convention: every element two bytes."""
        return self.mixer.paper_cache_bytes(context_len + self.meta_tokens)

    def state_bytes(self, workload: Workload) -> Num:
        """The part of the cache that each step rewrites whole."""
        return sum(
            tensor_bytes(tensor, workload) for tensor in self.mixer.cache(1) if tensor.kind != "kv"
        )


def tensor_bytes(tensor: CacheTensor, workload: Workload) -> Num:
    """Bytes of one cache tensor: keys and values in the cache's dtype, scan states in theirs, conv
    inputs in the products'."""
    dtype = {
        "kv": workload.kv_cache_dtype,
        "state": workload.scan_dtype,
        "conv": workload.product_dtype,
    }[tensor.kind]
    return tensor.elements * DTYPE_BYTES[dtype]


class ModelCosts:
    """The closed forms of one design. Sums run over distinct layers times their number, so depth
    costs nothing."""

    def __init__(self, spec: ArchSpec) -> None:
        self.spec = spec
        distinct = {layer: self._layer(layer) for layer in set(spec.stack)}
        self.layers: tuple[LayerCosts, ...] = tuple(distinct[layer] for layer in spec.stack)
        self._counts = [(distinct[layer], n) for layer, n in Counter(spec.stack).items()]

    def _layer(self, layer: Layer) -> LayerCosts:
        spec, parts = self.spec, (layer.mixer != NoMixer()) + (layer.ffn is not None)
        norms = self._norm * parts * (2 if spec.post_norm else 1)
        return LayerCosts(
            layer=layer,
            mixer=layer.mixer.costs(spec.d_model),
            ffn=ffn_costs(layer.ffn, spec.d_model),
            d_model=spec.d_model,
            norm_params=norms,
            meta_tokens=spec.meta_tokens,
        )

    @property
    def _norm(self) -> int:
        """Parameters of one norm over the residual stream: a weight, and a bias in a LayerNorm."""
        return self.spec.d_model * (2 if self.spec.norm == "layer" else 1)

    def _sum(self, question: Callable[[LayerCosts], Num]) -> Num:
        return sum(n * question(layer) for layer, n in self._counts)

    def distinct(self) -> Iterator[tuple[LayerCosts, int]]:
        """Each different layer with how often it stands in the stack."""
        return iter(self._counts)

    def params(self) -> Params:
        """Exact counts; `non_embedding` includes every norm."""
        table = self.spec.vocab_size * self.spec.d_model
        embedding = table * (1 if self.spec.tie_embeddings else 2)
        layers = int(self._sum(LayerCosts.params)) - self._repeated() + self.params_outside_layers()
        idle = int(self._sum(LayerCosts.idle_params))
        return Params(layers + embedding, embedding, layers, layers + embedding - idle)

    def params_outside_layers(self) -> int:
        """The last norm, learnt tokens, and what stands outside the language model."""
        return self._norm + self.spec.meta_tokens * self.spec.d_model + self.spec.outside_params

    def _repeated(self) -> int:
        """Parameters that the layers' own counts hold more than once, because layers share them."""
        shared = [
            item
            for layer, n in self._counts
            for item in layer.shared_params().items()
            for _ in range(n)
        ]
        return sum(n for _, n in shared) - sum(dict(shared).values())

    def head_flops(self, tokens: Num) -> Num:
        """The product with the vocabulary."""
        return linear(tokens, self.spec.d_model, self.spec.vocab_size)

    def forward_flops(self, seq_len: Num, logits: Num | None = None) -> Num:
        """Exact FLOPs of one sequence's forward; logits for every position, or for the last
        `logits` of them."""
        seq_len = lengths(seq_len)
        body = self._sum(lambda layer: total(layer.forward_flops(seq_len)))
        return body + self.head_flops(seq_len if logits is None else logits)

    def decode_flops(self, context_len: Num) -> Num:
        """Exact FLOPs of one decode step of one sequence; the new token is number `context_len`."""
        context_len = lengths(context_len)
        return self._sum(lambda layer: total(layer.decode_flops(context_len))) + self.head_flops(1)

    def train_flops_per_token(self, context_len: Num, convention: Convention) -> Num:
        """Forward and backward. `paper`: 6 N_nonembedding + mixer terms, without the head; `exact`:
        3 times the exact forward."""
        context_len = lengths(context_len)
        if convention == "exact":
            return 3 * self.forward_flops(context_len) / context_len
        active = self.params().non_embedding - self._sum(LayerCosts.idle_params)
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
    """`ModelCosts`, remembered per design."""
    return ModelCosts(spec)


SAME_SIZE = "Llama of the same size"


@lru_cache(maxsize=256)
def same_size_llama(spec: ArchSpec) -> ArchSpec:
    """A Transformer of the design's own widths with as many parameters, or the largest, called so,
    where no depth makes as many.

    Sections that the design lacks are the paper's (Table 8): heads of 64, four of which share keys
    and values; d_ff = 4 d_model."""
    heads = max(1, spec.d_model // 64)
    attention = spec.attention or {
        "n_heads": heads,
        "n_kv_heads": heads // 4 if heads % 4 == 0 else heads,
        "head_dim": 64,
    }
    ffn = spec.ffn or {"kind": "swiglu", "d_ff": 4 * spec.d_model}
    llama = spec.replace(
        name=SAME_SIZE,
        n_layers=1,
        layers=LayersSection(strategy="transformer"),
        attention=attention,
        ffn=ffn,
    )
    one, two = (ModelCosts(llama.replace(n_layers=n)).params().non_embedding for n in (1, 2))
    layers = 1 + (model_costs(spec).params().non_embedding - one) / (
        two - one
    )  # all layers are alike
    return llama.replace(
        n_layers=_possible(layers),
        name=SAME_SIZE if layers < MAX_LAYERS + 1 else "largest Llama of its width",
    )


def _possible(n_layers: float) -> int:
    """The nearest number of layers that a design can have."""
    return max(1, min(MAX_LAYERS, round(n_layers)))


def fit_depth(spec: ArchSpec, target_params: float) -> ArchSpec:
    """The design with the number of layers whose non-embedding parameters come closest to
    `target_params`.

    Needs layers given by strategy and ratio. This is how the paper compares 16 Transformer, 14
    (1:1) and 13 layers at 1B."""
    if spec.layers.pattern is not None or spec.layers.indices is not None:
        raise ValueError(
            "layers: given one by one - fitting the depth needs a strategy with a ratio and a placement"
        )

    def params(n_layers: int) -> int:
        return ModelCosts(spec.replace(n_layers=n_layers)).params().non_embedding

    guess = spec.n_layers
    for _ in range(4):  # the mean layer changes with the depth, ever less
        guess = _possible(guess * target_params / params(guess))
    near = range(_possible(guess - 3), _possible(guess + 3) + 1)
    return spec.replace(n_layers=min(near, key=lambda n: abs(params(n) - target_params)))

"""Bytes of a design's weights as stored. Matrices are in their storage format with its scales;
everything else has the dtype of the products."""

from collections import defaultdict
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from hybrid_core.costs.model import LayerCosts, ModelCosts, model_costs
from hybrid_core.design.quantization import StoredWeights
from hybrid_core.design.spec import ArchSpec
from hybrid_core.stored import COMPUTE_BYTES
from hybrid_core.terms import Num, Term, Terms
from hybrid_core.workload import Workload

Rules = tuple[StoredWeights, ...]


class LayerBytes(NamedTuple):
    """Bytes of one layer's weights: all routed experts together, and everything else. If equal
    layers are stored in different formats, these are means over them."""

    every_token: float
    experts: float

    def read(self, layer: LayerCosts, tokens: Num) -> Num:
        """Bytes that a step over `tokens` tokens reads: everything except the experts that no token
        is expected to choose."""
        return self.every_token + self.experts * layer.ffn.experts_read(tokens)


class WeightBytes(NamedTuple):
    """Bytes of all weights, of the matrix that makes logits, and of each layer in the order of
    `ModelCosts.distinct`."""

    total: int
    head: float
    layers: tuple[LayerBytes, ...]


def storage(spec: ArchSpec, workload: Workload) -> Rules:
    """The rules for storage formats: those for the workload's weight dtype if it sets one, or else
    the design's own."""
    asked = workload.weight_dtype
    own_formats = {rule.format for rule in spec.quantization}
    if asked is None or asked in own_formats:
        return spec.quantization
    if asked in COMPUTE_BYTES:
        return ()
    return (StoredWeights.model_validate({"format": asked, "parts": ("linear",)}),)


def stored_as(spec: ArchSpec, workload: Workload) -> str:
    """The formats in words: `bf16`, `mxfp4`, or `fp8 and nvfp4`."""
    formats = dict.fromkeys(rule.format for rule in storage(spec, workload))
    return " and ".join(formats) or workload.product_dtype


def weight_bytes(spec: ArchSpec, workload: Workload) -> WeightBytes:
    """Bytes of a design's weights in the workload's format."""
    return _weight_bytes(spec, storage(spec, workload), workload.element_bytes)


@lru_cache(maxsize=512)
def _weight_bytes(spec: ArchSpec, rules: Rules, element_bytes: int) -> WeightBytes:
    costs = model_costs(spec)
    table = _outside("embedding", costs, rules, element_bytes)
    head = table if spec.tie_embeddings else _outside("head", costs, rules, element_bytes)
    layers = _layers(costs, rules, element_bytes)
    counted = sum(
        n * (layer.every_token + layer.experts)
        for layer, (_, n) in zip(layers, costs.distinct(), strict=True)
    )
    around = costs.params_outside_layers() * element_bytes
    total = (
        counted
        - _repeated(costs, rules, element_bytes)
        + around
        + table
        + (0 if spec.tie_embeddings else head)
    )
    return WeightBytes(ceil(total), head, layers)


def _outside(
    part: str,
    costs: ModelCosts,
    rules: Rules,
    element_bytes: int,
) -> float:
    """The embedding, or an untied head."""
    term = Term(
        part,
        0,
        "product",
        costs.spec.d_model,
        costs.spec.vocab_size,
    )
    return _stored_bytes(term, part, None, rules, element_bytes)


def _layers(
    costs: ModelCosts,
    rules: Rules,
    element_bytes: int,
) -> tuple[LayerBytes, ...]:
    """The bytes of each distinct layer. If rules name layers by number, the mean over equal
    layers."""
    if not any(rule.layers for rule in rules):
        return tuple(_layer(layer, 1, rules, element_bytes) for layer, _ in costs.distinct())
    found: dict[int, list[LayerBytes]] = defaultdict(list)
    for number, layer in enumerate(costs.layers, start=1):
        found[id(layer)].append(_layer(layer, number, rules, element_bytes))
    return tuple(_mean(found[id(layer)]) for layer, _ in costs.distinct())


def _mean(alike: list[LayerBytes]) -> LayerBytes:
    every, experts = zip(*alike, strict=True)
    return LayerBytes(sum(every) / len(alike), sum(experts) / len(alike))


def _layer(
    layer: LayerCosts,
    number: int,
    rules: Rules,
    element_bytes: int,
) -> LayerBytes:
    sizes = layer.ffn.sizes
    experts = float(sizes.n_routed * sizes.expert * element_bytes)
    every = layer.params() * element_bytes - experts
    if not rules:
        return LayerBytes(every, experts)
    for part, term in _matrices(layer):
        stored = _stored_bytes(term, part, number, rules, element_bytes)
        saved = term.weights * element_bytes - stored
        if part.startswith("experts."):
            experts -= saved
        else:
            every -= saved
    return LayerBytes(every, experts)


def _matrices(layer: LayerCosts) -> list[tuple[str, Term]]:
    """Every matrix of a layer by the name of its part: `attention.q`, `experts.down`."""
    found = []
    for term in _products(layer.mixer.decode_flops(1)):
        found.append((f"{layer.kind.name}.{term.name}", term))
    for term in _products(layer.ffn.forward_flops(1)):
        found.append((term.name, term))
    return found


def _products(terms: Terms) -> Terms:
    return [term for term in terms if term.kind == "product"]


def _stored_bytes(
    term: Term,
    part: str,
    number: int | None,
    rules: Rules,
    element_bytes: int,
) -> float:
    """Bytes of a term's matrices by the first rule that covers them."""
    for rule in rules:
        if rule.holds(part, number):
            return term.copies * rule.layout.matrix_bytes(term.d_in, term.d_out)
    return term.weights * element_bytes


def _repeated(costs: ModelCosts, rules: Rules, element_bytes: int) -> float:
    """Bytes that the layers' sums count more than once, because layers share a block."""
    seen: set[object] = set()
    repeated = 0.0
    for number, layer in enumerate(costs.layers, start=1):
        for key, params in layer.shared_params().items():
            if key in seen:
                repeated += _block_bytes(layer, params, number, rules, element_bytes)
            seen.add(key)
    return repeated


def _block_bytes(
    layer: LayerCosts,
    params: int,
    number: int,
    rules: Rules,
    element_bytes: int,
) -> float:
    """Bytes of a shared block with `params` parameters. Its matrices are called `block ...`."""
    n_bytes = float(params * element_bytes)
    for part, term in _matrices(layer):
        if term.name.startswith("block "):
            stored = _stored_bytes(term, part, number, rules, element_bytes)
            n_bytes -= term.weights * element_bytes - stored
    return n_bytes

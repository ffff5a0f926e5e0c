"""Every cost of a design under a workload on a device, as one typed record.

The command line prints it, the pages show it, and `hybrid_core.cost` returns it."""

from typing import Any, Literal

from pydantic import Field, TypeAdapter

from hybrid_core.costs.engine import EngineView, Fit, served_view
from hybrid_core.costs.fit import Verdict, served_fit
from hybrid_core.costs.memory import Serving
from hybrid_core.costs.model import ModelCosts
from hybrid_core.costs.weights import stored_as
from hybrid_core.design.built import not_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import served_prediction
from hybrid_core.terms import Num
from hybrid_core.validation import Frozen
from hybrid_core.workload import Workload


class AskedWorkload(Frozen):
    """The workload of the figures, with defaults filled in. Lengths in tokens; `weight_dtype` names
    every format that weights are stored in."""

    batch_size: int
    context_len: int
    prompt_len: int
    weight_dtype: str
    kv_cache_dtype: str
    state_dtype: str
    max_batched_tokens: int


class ParamCounts(Frozen):
    """Parameter counts. `embedding`: the input table and an untied head. `active`: parameters that
    one token uses, including the embedding."""

    total: int
    embedding: int
    non_embedding: int
    active: int


class TrainingFlops(Frozen):
    """FLOPs of training (forward and backward), per token and per sample of `context_len`
    tokens."""

    per_token: float
    per_sample: float


class TrainingConventions(Frozen):
    """Training FLOPs as the paper counts them (Table 1 and Appendix C, without the vocabulary
    head), and exact: three times the forward pass."""

    paper: TrainingFlops
    exact: TrainingFlops


class CacheBytes(Frozen):
    """Bytes of the cache of one sequence of `context_len` tokens.

    `paper`: Appendix C, always in bf16. `exact`: each tensor in its own dtype and shape. `paged`:
    in vLLM's equal-size pages (costs/engine.py)."""

    paper: int
    exact: int
    paged: int


class Room(Frozen):
    """The largest batch that fits the device at the requested context, and the longest context
    (tokens) at the requested batch. 0 if nothing fits."""

    batch_size: int
    context_len: int


class EnginePages(Frozen):
    """A serving engine's pages: bytes per page, and attention tokens per page (0 without
    attention). `ideal` is what fits with the exact cache, `paged` what fits with the cache in
    pages."""

    page_bytes: int
    block_tokens: int
    ideal: Room
    paged: Room


class LatentAttention(Frozen):
    """How the FLOPs of latent attention (MLA) are counted."""

    prefill: str = "expanded keys and values"
    decode: str = "absorbed: over the latent"


class MemoryBytes(Frozen):
    """Bytes of device memory of the whole batch. `activations`: the tensors alive at the peak of
    one chunk of the prefill. `one_shot_activations`: the same for a prefill of the whole batch at
    once, which `total` does not include."""

    weights: int
    cache: int
    activations: int
    total: int
    one_shot_activations: int


class FitVerdict(Frozen):
    """Whether the workload fits the device. Bytes are for the whole batch. `engine` is the cache in
    pages, and `usable` the memory of the device that an engine may use.

    `fits`: with the exact cache. `fits_engine`: also with the cache in pages. `problem`: one line
    on what is too large and what would fit, or None."""

    weights: int
    cache: int
    activations: int
    engine: int
    usable: int
    fits: bool
    fits_engine: bool
    problem: str | None


class PredictedSpeed(Frozen):
    """Speed of the whole batch: prompt tokens per second in the prefill, and new tokens per second
    and seconds per step in decoding at `context_len`. `basis`: the source of the figures."""

    basis: str
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_step_s: float


class LayerCost(Frozen):
    """One layer, numbered from 1: its kind, its parameters, exact FLOPs of the forward pass over
    one sequence of `context_len` tokens, and exact bytes of that sequence's cache."""

    layer: int
    kind: str
    params: int
    flops: int
    cache_bytes: int


class Cost(Frozen):
    """Every cost of one design under one workload on one device.

    FLOPs are per token unless named otherwise, and one multiply-add is 2 FLOPs. `prefill_flops`:
    exact, for one sequence's prompt with one row of logits. `decode_flops_per_token`: exact, for
    the step whose new token is token number `context_len`. `hardware`: the device's key.
    `not_built`: why the modules here do not compute the design, so that it is only costed; None if
    they do. `layers`: one record per layer, first to last.

    `model_dump(mode="json")` gives the JSON that `cost --json` prints."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: str
    pattern: str
    workload: AskedWorkload
    hardware: str
    params: ParamCounts
    train_flops: TrainingConventions
    prefill_flops: int
    decode_flops_per_token: int
    cache_bytes: CacheBytes
    engine: EnginePages
    latent_attention: LatentAttention | None
    not_built: str | None
    memory_bytes: MemoryBytes
    fit: FitVerdict
    predicted: PredictedSpeed
    layers: tuple[LayerCost, ...]


def cost(spec: ArchSpec, workload: Workload, hardware: Hardware) -> Cost:
    """Every cost of a design under a workload on a device. Raises SpecError if the device has no
    figures for the workload's dtype."""
    serving = Serving(spec, workload)
    costs = serving.costs
    context = serving.workload.context_len
    prefill_flops = serving.forward_flops(serving.workload.prefill_len)
    decode_flops = serving.decode_flops(context)
    head_flops = costs.head_flops(1)
    view = served_view(serving, hardware.usable_bytes)
    verdict = served_fit(serving, hardware, view)
    return Cost(
        name=spec.name,
        pattern=spec.pattern,
        workload=_asked(spec, serving.workload),
        hardware=hardware.key,
        params=ParamCounts(**costs.params()._asdict()),
        train_flops=_train_flops(serving),
        prefill_flops=int(serving.in_stack(prefill_flops) + head_flops),
        decode_flops_per_token=int(serving.in_stack(decode_flops) + head_flops),
        cache_bytes=CacheBytes(
            paper=int(costs.cache_bytes(context, "paper")),
            exact=view.ideal_bytes,
            paged=view.paged_bytes,
        ),
        engine=_engine(view),
        latent_attention=_latent_attention(costs),
        not_built=not_built(spec),
        memory_bytes=_memory(serving, verdict),
        fit=_fit(verdict),
        predicted=_predicted(serving, hardware),
        layers=_layers(serving),
    )


def _asked(spec: ArchSpec, workload: Workload) -> AskedWorkload:
    return AskedWorkload(
        batch_size=workload.batch_size,
        context_len=workload.context_len,
        prompt_len=workload.prefill_len,
        weight_dtype=stored_as(spec, workload),
        kv_cache_dtype=workload.kv_cache_dtype,
        state_dtype=workload.scan_dtype,
        max_batched_tokens=workload.max_batched_tokens,
    )


def _train_flops(serving: Serving) -> TrainingConventions:
    """The exact convention is three forward passes, the head included."""
    context = serving.workload.context_len
    paper = serving.costs.train_flops_per_token(context, "paper")
    body = serving.in_stack(serving.forward_flops(context))
    forward = body + serving.costs.head_flops(context)
    return TrainingConventions(
        paper=_training(paper, context),
        exact=_training(3 * forward / context, context),
    )


def _training(per_token: Num, context_len: int) -> TrainingFlops:
    return TrainingFlops(per_token=float(per_token), per_sample=float(per_token * context_len))


def _engine(view: EngineView) -> EnginePages:
    return EnginePages(
        page_bytes=view.pages.page_bytes,
        block_tokens=view.pages.block_tokens,
        ideal=_room(view.ideal),
        paged=_room(view.paged),
    )


def _room(found: Fit) -> Room:
    return Room(batch_size=found.batch_size, context_len=found.context_len)


def _latent_attention(costs: ModelCosts) -> LatentAttention | None:
    has_any = any(
        isinstance(layer.layer.mixer, LatentAttentionMixer) for layer, _ in costs.distinct()
    )
    return LatentAttention() if has_any else None


def _memory(serving: Serving, verdict: Verdict) -> MemoryBytes:
    used = verdict.used
    return MemoryBytes(
        weights=int(used.weights),
        cache=int(used.cache),
        activations=int(used.activations),
        total=int(used.total),
        one_shot_activations=serving.at_once(),
    )


def _fit(verdict: Verdict) -> FitVerdict:
    return FitVerdict(
        weights=int(verdict.used.weights),
        cache=int(verdict.used.cache),
        activations=int(verdict.used.activations),
        engine=verdict.paged_bytes,
        usable=verdict.usable_bytes,
        fits=verdict.fits,
        fits_engine=verdict.fits_engine,
        problem=verdict.problem,
    )


def _predicted(serving: Serving, hardware: Hardware) -> PredictedSpeed:
    speed = served_prediction(serving, hardware)
    return PredictedSpeed(
        basis=hardware.basis,
        prefill_tokens_per_s=float(speed.prefill_tokens_per_s),
        decode_tokens_per_s=float(speed.decode_tokens_per_s),
        decode_step_s=float(speed.decode_step_s),
    )


_LAYERS = TypeAdapter(tuple[LayerCost, ...])


def layers(spec: ArchSpec, workload: Workload) -> tuple[LayerCost, ...]:
    """One record per layer of the design, first to last."""
    return _layers(Serving(spec, workload))


def _layers(serving: Serving) -> tuple[LayerCost, ...]:
    context = serving.workload.context_len
    all_flops = serving.forward_flops(context)
    known: dict[int, dict[str, Any]] = {}
    for layer, flops in zip(serving.layers, all_flops, strict=True):
        kv_bytes = layer.costs.kv_bytes(context, serving.workload)
        known[id(layer.costs)] = {
            "kind": layer.costs.kind.name,
            "params": layer.costs.params(),
            "flops": int(flops),
            "cache_bytes": int(kv_bytes + layer.state_bytes),
        }
    records = []
    for number, costs in enumerate(serving.costs.layers, start=1):
        records.append({"layer": number, **known[id(costs)]})
    # One call validates all records, which is several times faster than one call per record.
    return _LAYERS.validate_python(records, strict=False)

"""Every cost of a design in a workload on a device, as one typed record.

The command line prints it, the pages show it, and `hybrid_core.cost` returns it."""

from typing import Any, Literal

from pydantic import Field

from hybrid_core.costs.engine import EngineView, Fit, engine_view
from hybrid_core.costs.fit import Verdict, fit
from hybrid_core.costs.memory import one_shot_activations
from hybrid_core.costs.model import ModelCosts, model_costs
from hybrid_core.costs.weights import stored_as
from hybrid_core.design.built import not_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.mixers.registry import kind_of
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.terms import Num, total
from hybrid_core.validation import Frozen
from hybrid_core.workload import Workload


class AskedWorkload(Frozen):
    """The workload that the figures are for, with what it left open filled in. Lengths in tokens;
    `weight_dtype` names every format that weights are stored in."""

    batch_size: int
    context_len: int
    prompt_len: int
    weight_dtype: str
    kv_cache_dtype: str
    state_dtype: str
    max_batched_tokens: int


class ParamCounts(Frozen):
    """Numbers of parameters. `embedding`: the input table and an untied head; `active`: those that
    one token uses, embedding included."""

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
    in the equal pages of vLLM (costs/engine.py)."""

    paper: int
    exact: int
    paged: int


class Room(Frozen):
    """The largest batch at the asked context, and the longest context (tokens) at the asked batch,
    that fit the device; 0 where not even one does."""

    batch_size: int
    context_len: int


class EnginePages(Frozen):
    """A serving engine's pages: bytes of one, tokens of attention in one (0 without attention).
    `ideal` is what fits with the exact cache, `paged` what fits with the cache in pages."""

    page_bytes: int
    block_tokens: int
    ideal: Room
    paged: Room


class LatentAttention(Frozen):
    """How the FLOPs of latent attention (MLA) are counted."""

    prefill: str = "expanded keys and values"
    decode: str = "absorbed: over the latent"


class MemoryBytes(Frozen):
    """Bytes of device memory of the whole batch. `activations`: the tensors alive at the widest
    moment of one chunk of the prefill; `one_shot_activations`: the same for a prefill of the whole
    batch at once, which `total` does not hold."""

    weights: int
    cache: int
    activations: int
    total: int
    one_shot_activations: int


class FitVerdict(Frozen):
    """Whether the workload fits the device. Bytes of the whole batch; `engine` is the cache in
    pages, `usable` what an engine may use of the device's memory.

    `fits`: with the exact cache; `fits_engine`: with the cache in pages, too. `problem`: one line
    that says what is too large and what would fit, or None."""

    weights: int
    cache: int
    activations: int
    engine: int
    usable: int
    fits: bool
    fits_engine: bool
    problem: str | None


class PredictedSpeed(Frozen):
    """Speed of the whole batch: prompt tokens per second of the prefill, new tokens per second and
    seconds per step of decoding at `context_len`. `basis` says what the figures rest on."""

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
    """Every cost of one design in one workload on one device.

    FLOPs are per token unless named otherwise, and one multiply-add is 2 FLOPs. `prefill_flops`:
    exact, of the prompt of one sequence with one row of logits. `decode_flops_per_token`: exact, of
    the step whose new token is number `context_len`. `hardware`: the device's key. `not_built`: why
    the modules here do not compute the design, so that its figures are costed only; None where they
    do. `layers`: one record per layer, first to last.

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
    """Every cost of a design in a workload on a device. Raises SpecError where the device has no
    figures for the workload's dtype."""
    workload = workload.of(spec)
    costs = model_costs(spec)
    context = workload.context_len
    view = engine_view(spec, workload, hardware.usable_bytes)
    verdict = fit(spec, workload, hardware, view)
    return Cost(
        name=spec.name,
        pattern=spec.pattern,
        workload=_asked(spec, workload),
        hardware=hardware.key,
        params=ParamCounts(**costs.params()._asdict()),
        train_flops=TrainingConventions(
            paper=_training(costs.train_flops_per_token(context, "paper"), context),
            exact=_training(costs.train_flops_per_token(context, "exact"), context),
        ),
        prefill_flops=int(costs.forward_flops(workload.prefill_len, logits=1)),
        decode_flops_per_token=int(costs.decode_flops(context)),
        cache_bytes=CacheBytes(
            paper=int(costs.cache_bytes(context, "paper")),
            exact=int(costs.cache_bytes(context, "exact", workload)),
            paged=view.paged_bytes,
        ),
        engine=_engine(view),
        latent_attention=_latent_attention(spec),
        not_built=not_built(spec),
        memory_bytes=_memory(costs, workload, verdict),
        fit=_fit(verdict),
        predicted=_predicted(spec, workload, hardware),
        layers=layers(spec, workload),
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


def _latent_attention(spec: ArchSpec) -> LatentAttention | None:
    has_any = any(isinstance(layer.mixer, LatentAttentionMixer) for layer in spec.stack)
    return LatentAttention() if has_any else None


def _memory(costs: ModelCosts, workload: Workload, verdict: Verdict) -> MemoryBytes:
    used = verdict.used
    at_once = one_shot_activations(costs, workload, workload.prefill_len)
    return MemoryBytes(
        weights=int(used.weights),
        cache=int(used.cache),
        activations=int(used.activations),
        total=int(used.total),
        one_shot_activations=int(at_once),
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


def _predicted(spec: ArchSpec, workload: Workload, hardware: Hardware) -> PredictedSpeed:
    speed = predict(spec, workload, hardware)
    return PredictedSpeed(
        basis=hardware.basis,
        prefill_tokens_per_s=float(speed.prefill_tokens_per_s),
        decode_tokens_per_s=float(speed.decode_tokens_per_s),
        decode_step_s=float(speed.decode_step_s),
    )


def layers(spec: ArchSpec, workload: Workload) -> tuple[LayerCost, ...]:
    """One record per layer of the design, first to last."""
    context = workload.context_len
    known: dict[int, dict[str, Any]] = {}
    rows = []
    for number, layer in enumerate(model_costs(spec).layers, start=1):
        if id(layer) not in known:
            known[id(layer)] = {
                "kind": kind_of(layer.layer.mixer).name,
                "params": layer.params(),
                "flops": int(total(layer.forward_flops(context))),
                "cache_bytes": int(layer.cache_bytes(context, workload)),
            }
        rows.append(LayerCost(layer=number, **known[id(layer)]))
    return tuple(rows)

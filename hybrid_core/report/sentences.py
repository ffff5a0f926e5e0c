"""A design or a run in half a minute: a few sentences, each with its convention."""

from collections import Counter
from typing import NamedTuple

from hybrid_core.costs.model import model_costs, same_size_llama
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.quality.estimator import Estimate, estimate
from hybrid_core.evidence.quality.quoted import quoted
from hybrid_core.evidence.throughput import generated
from hybrid_core.report import units
from hybrid_core.results.profile import Generation
from hybrid_core.runs.store import Run
from hybrid_core.speed.cost import Cost, FitVerdict
from hybrid_core.speed.hardware import Hardware
from hybrid_core.workload import Workload


class Sentence(NamedTuple):
    """A sentence, and the entries of profiles/numbers.yaml for its numbers."""

    text: str
    sources: tuple[str, ...] = ()


def of_run(run: Run, costs: Cost) -> list[Sentence]:
    """What the run's design is, and how fast it generated."""
    sentences = _of_any_design(run.spec, costs)
    found = run.part(Generation)
    if found and found.rows:
        row = found.rows[-1]
        speed = f"{units.rate(row.tokens_per_s)} up to {units.length(row.total_len)} (measured)"
        share = row.tokens_per_s / row.predicted_tokens_per_s
        text = f"On {run.device} it generated {speed}, {share:.0%} of the predicted speed."
        sentences.append(Sentence(text, ("generation",)))
    return sentences


def of_design(
    spec: ArchSpec,
    workload: Workload,
    device: Hardware,
    costs: Cost,
) -> list[Sentence]:
    """What a design is, whether it fits a device, and how fast it could decode there."""
    return [
        *_of_any_design(spec, costs),
        _verdict(costs.fit, device.name),
        *_speed(spec, workload, device, costs),
    ]


def _of_any_design(spec: ArchSpec, costs: Cost) -> list[Sentence]:
    """Its layers, its cache compared with a Llama's, its loss."""
    kinds = Counter(layer.mixer.entry.label for layer in spec.stack)
    made = " and ".join(f"{n} {kind}" for kind, n in kinds.items())
    params = units.count(costs.params.non_embedding)
    layers = f"{made} layers, {params} parameters without embedding (exact)."
    sentences = [Sentence(layers, ("parameters",))]
    if spec.attention:
        sentences.append(Sentence(_cache_beside_llama(spec, costs), ("cache",)))
    loss = _loss(spec)
    if loss:
        sentences.append(Sentence(loss, ("nll",)))
    return sentences


def _cache_beside_llama(spec: ArchSpec, costs: Cost) -> str:
    """The cache of a sequence, and how it compares with a Llama's."""
    work = costs.workload
    context = work.context_len
    dtypes = Workload.make(
        kv_cache_dtype=work.kv_cache_dtype,
        state_dtype=work.state_dtype,
    )
    llama_costs = model_costs(same_size_llama(spec))
    llama = int(llama_costs.cache_bytes(context, "exact", dtypes))
    own = costs.cache_bytes.exact
    keeps = f"At {units.length(context)} a sequence keeps {units.n_bytes(own)} of cache"
    return f"{keeps}, {100 * (own / llama - 1):+.0f} % against a Llama of the same size (exact)."


def _loss(spec: ArchSpec) -> str:
    """NLL as printed for this stack, else as estimated. Empty if neither is known."""
    printed = quoted(spec)
    if printed:
        return f"NLL on DCLM as the paper trained this stack: {printed}."
    found = estimate(spec)
    if not isinstance(found, Estimate):
        return ""
    interval = f"{found.nll:.3f}, {found.low:.3f} to {found.high:.3f}"
    return f"NLL on DCLM at 60B tokens: {interval} (estimated from the paper's rows)."


def _verdict(verdict: FitVerdict, device: str) -> Sentence:
    """Whether a design fits."""
    problem = verdict.problem
    if problem:
        return Sentence(f"{problem[:1].upper()}{problem[1:]}.", ("fits",))
    used = verdict.weights + verdict.cache + verdict.activations
    needed = f"{units.n_bytes(used)} of weights, cache and one chunk's activations"
    usable = units.n_bytes(verdict.usable)
    text = f"Fits {device}: {needed}, of the {usable} that an engine can use (exact)."
    return Sentence(text, ("fits", "memory"))


def _speed(
    spec: ArchSpec,
    workload: Workload,
    device: Hardware,
    costs: Cost,
) -> list[Sentence]:
    """How fast a design could decode on a device, and how fast the paper's code did."""
    rate = units.rate(costs.predicted.decode_tokens_per_s / workload.batch_size)
    basis = f"predicted ceiling, batch {workload.batch_size}"
    ceiling = f"Decodes at most {rate} per sequence on {device.name} ({basis})."
    sentences = [Sentence(ceiling, ("decode_ceiling",))]
    printed = generated(spec, workload.context_len)
    if printed:
        reached = f"The paper's own code reached {printed}."
        sentences.append(Sentence(reached, ("paper_generation",)))
    return sentences

"""Guided start: from a context, a device and a wish to three of the paper's designs, each with what it gains and what it costs."""

from functools import cache
from typing import Annotated, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from hybrid_core import baselines, hardware, presets
from hybrid_core.advice import advise
from hybrid_core.costs.memory import refusal
from hybrid_core.costs.model import model_costs
from hybrid_core.costs.roofline import predict
from hybrid_core.spec import ArchSpec, Frozen
from hybrid_core.workload import Workload

Wish = Literal["quality", "balance", "speed"]
Size = Literal["350M", "1B", "3B"]
ROLES: dict[Wish, str] = {"quality": "Best quality", "balance": "Balanced", "speed": "Fastest"}
GRAVE = 4  # a warning of this weight rules a design out
# size -> (table, what its rows share, where the loss comes from)
_TRAINED: dict[Size, tuple[str, str, str]] = {
    "350M": ("table10_350m", "budget == 'data'", "60B tokens"),
    "1B": ("table09_1b", "budget == 'data'", "60B tokens"),
    "3B": ("table14_15_scaling", "scale == '3B' and train_flops == 4e20", "4e20 training FLOPs"),
}


class Need(Frozen):
    """What a user answers. `min_tokens_per_s`: what each sequence must decode at; 0 asks for nothing."""

    context_len: Annotated[int, Field(ge=1, le=2**24)]
    hardware: str
    wish: Wish = "quality"
    size: Size = "1B"
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    min_tokens_per_s: Annotated[float, Field(ge=0)] = 0.0

    @property
    def workload(self) -> Workload:
        return Workload(batch_size=self.batch_size, context_len=self.context_len)


class Candidate(NamedTuple):
    """A trained design in the use that is asked for. NLL and accuracy are quoted, the rest exact or predicted."""

    spec: ArchSpec
    nll: float
    accuracy: float | None
    cache_bytes: int
    tokens_per_s: float
    problem: str | None


class Proposal(NamedTuple):
    """A candidate with the part it plays and its trade-offs, one line each with its source."""

    role: str
    candidate: Candidate
    trade_offs: tuple[str, ...]


def candidates(need: Need) -> list[Candidate]:
    """The hybrids of a size that the paper trained, without those that it gravely warns of when recall over the whole context matters."""
    found = [_candidate(spec, row, need) for spec, row in _trained(need.size)]
    return [candidate for candidate in found if not _grave(candidate.spec, need.context_len)]


def propose(need: Need) -> list[Proposal]:
    """Up to three designs that fit and are fast enough, the wished one first; where none is, the fastest, which says what it misses."""
    found = candidates(need)
    good = [candidate for candidate in found if candidate.problem is None]
    if not good:
        return [_proposal("Nearest miss", max(found, key=lambda c: c.tokens_per_s), need)]
    parts: dict[Wish, Candidate] = {"quality": min(good, key=lambda c: c.nll), "speed": max(good, key=lambda c: c.tokens_per_s)}
    parts["balance"] = _between(good, parts["quality"], parts["speed"])
    order: list[Wish] = [need.wish, *(wish for wish in ROLES if wish != need.wish)]
    chosen = {parts[wish].spec.name: wish for wish in reversed(order)}
    return [_proposal(ROLES[wish], parts[wish], need) for wish in order if chosen[parts[wish].spec.name] == wish]


def _between(good: list[Candidate], best: Candidate, fastest: Candidate) -> Candidate:
    """The design that gives away least of either: NLL and speed, each as a share of the way from the best to the other end."""

    def loss(candidate: Candidate) -> float:
        nll = (candidate.nll - best.nll) / ((fastest.nll - best.nll) or 1)
        speed = (fastest.tokens_per_s - candidate.tokens_per_s) / ((fastest.tokens_per_s - best.tokens_per_s) or 1)
        return nll + speed

    return min(([c for c in good if c not in (best, fastest)]) or good, key=loss)


@cache
def _trained(size: Size) -> list[tuple[ArchSpec, pd.Series]]:
    """Presets of a size with the row that prints their loss."""
    table, query, _ = _TRAINED[size]
    rows = []
    for name in presets.names():
        spec = presets.get(name).spec
        if name.endswith(f"-{size.lower()}") and name.count("-") < 3 and baselines.is_papers(spec):
            matching = baselines.matching(spec, table).query(query)
            rows += [(spec, row) for _, row in matching.head(1).iterrows()]
    return rows


def _candidate(spec: ArchSpec, row: pd.Series, need: Need) -> Candidate:
    device, work = hardware.get(need.hardware), need.workload
    speed = float(predict(spec, work, device).decode_tokens_per_s) / need.batch_size
    problem = None
    if too_big := refusal(spec, work, device.memory_bytes):
        problem = f"does not fit {device.name}: {too_big}"
    elif speed < need.min_tokens_per_s:
        problem = f"decodes at {speed:.0f} tokens/s a sequence, {need.min_tokens_per_s:.0f} are asked for"
    cache = int(model_costs(spec).cache_bytes(need.context_len, "exact", work))
    accuracy = float(row["avg"]) if "avg" in row else None
    return Candidate(spec, float(row["nll_dclm"]), accuracy, cache, speed, problem)


def _grave(spec: ArchSpec, context_len: int) -> bool:
    advice = advise(spec, context_len, needle_distance=max(1, context_len // 2))
    only_one_kind = len(set(spec.pattern)) == 1 and "H" not in spec.pattern
    return only_one_kind or any(item.rule.kind == "warning" and item.weight >= GRAVE for item in advice)


def _proposal(role: str, candidate: Candidate, need: Need) -> Proposal:
    return Proposal(role, candidate, tuple(_trade_offs(candidate, need)))


def _trade_offs(candidate: Candidate, need: Need) -> list[str]:
    """What the paper prints of the design beside the Llama of its size, and the weightiest advice on it."""
    table, _, budget = _TRAINED[need.size]
    llama, row = next((spec, row) for spec, row in _trained(need.size) if set(spec.pattern) == {"A"})
    accuracy = f", accuracy {candidate.accuracy:.1f} against {row['avg']:.1f} %" if candidate.accuracy else ""
    lines = [
        f"NLL {candidate.nll:.3f} against Llama's {row['nll_dclm']:.3f}{accuracy} at {need.size} and {budget} "
        f"(Table {baselines.TABLES[table][0]})."
    ]
    its_cache = int(model_costs(llama).cache_bytes(need.context_len, "exact", need.workload))
    lines.append(
        f"Keeps {candidate.cache_bytes / 2**20:,.0f} MiB of cache a sequence at {need.context_len:,} tokens against Llama's "
        f"{its_cache / 2**20:,.0f} MiB (exact)."
    )
    own, base = baselines.throughput(candidate.spec), baselines.throughput(llama)
    if own and base:
        i = min(range(len(own.totals)), key=lambda i: abs(own.totals[i] - need.context_len))
        lines.append(
            f"Generates {own.tokens_per_s[i]:.0f} against Llama's {base.tokens_per_s[i]:.0f} tokens/s at {own.totals[i]:,} tokens in all "
            "(Table 13, one H200, batch 4)."
        )
    long = baselines.matching(candidate.spec, "table12_long_context").query("context_len <= @need.context_len").tail(1)
    for _, at in long.iterrows():
        lines.append(f"Trained at {at['context_len']:,} tokens: NLL {at['nll_dclm']:.3f}, accuracy {at['avg']:.1f} % (Table 12).")
    if advice := [item for item in advise(candidate.spec, need.context_len) if item.rule.control in ("ratio", "strategy", "placement")]:
        lines.append(f"{advice[0].rule.text} ({advice[0].rule.sources})")
    return lines

"""Guided start: from a context, a device and a wish to three of the paper's designs, each with what
it gains and what it costs."""

from typing import Annotated, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from hybrid_core.costs.fit import fit
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality import mixture
from hybrid_core.evidence.quality.quoted import TRAINED, Size, trained, trained_otherwise
from hybrid_core.speed import hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.validation import Frozen
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT, Workload

Wish = Literal["quality", "balance", "speed"]
ROLES: dict[Wish, str] = {"quality": "Best quality", "balance": "Balanced", "speed": "Fastest"}
PROVEN = "Measured fast enough on an H200"  # the part of the best design that the paper itself saw at the speed that is asked for
MOST = 3
NO_HYBRID = {
    "llama": "attention only",
    "mamba": "Mamba only",
    "swa": "attention among windows",
    "window": "windows only",
}


class Need(Frozen):
    """What a user answers. `min_tokens_per_s`: what each sequence must decode at; 0 asks for
    nothing."""

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
    """A trained design in the use that is asked for. NLL and accuracy are quoted, the rest exact or
    predicted.

    `tokens_per_s`: the ceiling of a sequence to three digits, as it is shown, so that what is
    chosen by it can be seen to be so. `measured`: tokens/s a sequence that the paper's own code
    reached in such a use; `problem`: why the design does not do; `doubt`: why it may not; `proof`:
    where the paper measured the speed that is asked for."""

    spec: ArchSpec
    nll: float
    accuracy: float | None
    cache_bytes: int
    tokens_per_s: float
    measured: float | None
    problem: str | None
    doubt: str | None
    proof: str | None


class Proposal(NamedTuple):
    """A candidate with the part it plays and its trade-offs, one line each with its source."""

    role: str
    candidate: Candidate
    trade_offs: tuple[str, ...]


class LeftOut(NamedTuple):
    """A trained design that is no candidate, and why."""

    name: str
    why: str


def candidates(need: Need) -> list[Candidate]:
    """Every hybrid of a size that the paper trained: attention or intra-hybrid blocks among Mamba
    layers, or intra-hybrid blocks alone."""
    return [
        _candidate(spec, row, need) for spec, row in trained(need.size) if _no_hybrid(spec) is None
    ]


def left_out(size: Size) -> list[LeftOut]:
    """The other designs of a size in its table, each with the reason."""
    found = [LeftOut(spec.name, why) for spec, _ in trained(size) if (why := _no_hybrid(spec))]
    for spec in trained_otherwise(size):
        found.append(LeftOut(spec.name, _no_hybrid(spec) or f"not printed at {TRAINED[size][2]}"))
    return found


def _no_hybrid(spec: ArchSpec) -> str | None:
    """What a stack is made of, where the paper does not call it a hybrid."""
    mixed = mixture(spec.pattern)
    return NO_HYBRID.get(mixed.family) if mixed else None


def propose(need: Need) -> list[Proposal]:
    """Up to three designs that fit and are fast enough, the wished one first; where none is, the
    fastest, which says what it misses.

    Best quality has the lowest NLL that is shown, Fastest the highest ceiling that is shown;
    Balanced lies strictly between in both. Speeds are ceilings, so where one is asked for, the best
    of those that the paper measured at it comes second."""
    found = candidates(need)
    good = [candidate for candidate in found if candidate.problem is None]
    if not good:
        return [_proposal("Nearest miss", max(found, key=lambda c: c.tokens_per_s), need)]
    parts: dict[Wish, Candidate] = {
        "quality": min(good, key=lambda c: (c.nll, -c.tokens_per_s)),
        "speed": max(good, key=lambda c: (c.tokens_per_s, -c.nll)),
    }
    if middle := _between(good, parts["quality"], parts["speed"]):
        parts["balance"] = middle
    order = [
        (ROLES[wish], parts[wish])
        for wish in sorted(parts, key=lambda wish: (wish != need.wish, list(ROLES).index(wish)))
    ]
    if proven := [candidate for candidate in good if candidate.proof]:
        order.insert(1, (PROVEN, min(proven, key=lambda c: c.nll)))
    different = {candidate.spec.name: role for role, candidate in reversed(order)}
    return [
        _proposal(role, candidate, need)
        for role, candidate in order
        if different[candidate.spec.name] == role
    ][:MOST]


def _between(good: list[Candidate], best: Candidate, fastest: Candidate) -> Candidate | None:
    """Of those strictly between best and fastest, in NLL and speed, the one that gives away least,
    each as a share of the way."""

    def loss(candidate: Candidate) -> float:
        nll = (candidate.nll - best.nll) / ((fastest.nll - best.nll) or 1)
        speed = (fastest.tokens_per_s - candidate.tokens_per_s) / (
            (fastest.tokens_per_s - best.tokens_per_s) or 1
        )
        return nll + speed

    middle = [
        c
        for c in good
        if best.nll < c.nll < fastest.nll
        and best.tokens_per_s < c.tokens_per_s < fastest.tokens_per_s
    ]
    return min(middle, key=loss, default=None)


def _candidate(spec: ArchSpec, row: pd.Series, need: Need) -> Candidate:
    device, work = hardware.get(need.hardware), need.workload
    speed = float(predict(spec, work, device).decode_tokens_per_s) / need.batch_size
    problems = []
    if too_big := fit(spec, work, device).problem:
        problems.append(too_big)
    if speed < need.min_tokens_per_s:
        problems.append(
            f"decodes at {speed:,.0f} tokens/s a sequence, {need.min_tokens_per_s:,.0f} are asked for"
        )
    problem = "; ".join(problems) or None
    cache = int(model_costs(spec).cache_bytes(need.context_len, "exact", work))
    accuracy = float(row["avg"]) if "avg" in row else None
    doubt, proof = (
        (None, None) if problem else (_doubt(spec, need, speed), _proof(spec, need, speed))
    )
    own = baselines.nearest_length(spec, need.context_len)
    measured = own["paper_a_sequence"] if own else None
    return Candidate(
        spec,
        float(row["nll_dclm"]),
        accuracy,
        cache,
        float(f"{speed:.3g}"),
        measured,
        problem,
        doubt,
        proof,
    )


def _doubt(spec: ArchSpec, need: Need, ceiling: float) -> str | None:
    """Where a ceiling reaches the speed that is asked for and the paper's own measurement does not,
    or hardly any code could."""
    share = need.min_tokens_per_s / ceiling
    if row := baselines.nearest_length(spec, need.context_len):
        each = row["paper_a_sequence"]
        if each < need.min_tokens_per_s:
            return (
                f"The ceiling reaches {need.min_tokens_per_s:.0f} tokens/s; the paper's own code reached {each:.0f} a sequence on an H200, "
                f"{row['ratio']:.0%} of its ceiling (Table 13). Profile it before you rely on it"
            )
    elif share > (
        most := max(
            row["ratio"] for known, _ in trained("1B") for row in baselines.beside_ceiling(known)
        )
    ):
        return (
            f"{need.min_tokens_per_s:.0f} tokens/s take {share:.0%} of the ceiling. The paper did not measure this design; of what it "
            f"measured no design reached more than {most:.0%} of its ceiling (Table 13). Profile it before you rely on it"
        )
    return None


def _proof(spec: ArchSpec, need: Need, ceiling: float) -> str | None:
    """Where the paper measured the speed that is asked for, at no shorter context and no smaller
    batch."""
    rows = [
        row
        for row in baselines.beside_ceiling(spec)
        if row["total_len"] >= need.context_len and need.batch_size <= PAPER_BATCH
    ]
    best = max(rows, key=lambda row: row["paper_a_sequence"], default=None)
    if best is None or not 0 < need.min_tokens_per_s <= (each := best["paper_a_sequence"]):
        return None
    return (
        f"The paper's own code reached {each:.0f} tokens/s a sequence on an H200, {best['ratio']:.0%} of its ceiling (Table 13). Here "
        f"{need.min_tokens_per_s:.0f} take {need.min_tokens_per_s / ceiling:.0%} of the ceiling. Profile it before you rely on it"
    )


def _proposal(role: str, candidate: Candidate, need: Need) -> Proposal:
    return Proposal(role, candidate, tuple(_trade_offs(candidate, need)))


def _trade_offs(candidate: Candidate, need: Need) -> list[str]:
    """What the paper prints of the design beside the Llama of its size."""
    table, _, training = TRAINED[need.size]
    llama, row = next((spec, row) for spec, row in trained(need.size) if set(spec.pattern) == {"A"})
    accuracy = (
        f", accuracy {candidate.accuracy:.1f} against {row['avg']:.1f} %"
        if candidate.accuracy
        else ""
    )
    lines = [
        f"NLL {candidate.nll:.3f} against Llama's {row['nll_dclm']:.3f}{accuracy} at {need.size}, {training} "
        f"(Table {baselines.TABLES[table][0]})."
    ]
    its_cache = int(model_costs(llama).cache_bytes(need.context_len, "exact", need.workload))
    lines.append(
        f"Keeps {candidate.cache_bytes / 2**20:,.0f} MiB of cache a sequence at {need.context_len:,} tokens against Llama's "
        f"{its_cache / 2**20:,.0f} MiB (exact)."
    )
    if (own := baselines.nearest_length(candidate.spec, need.context_len)) and (
        base := baselines.nearest_length(llama, need.context_len)
    ):
        each, its = (row["paper_a_sequence"] for row in (own, base))
        lines.append(
            f"Measured by the paper: {each:.0f} against Llama's {its:.0f} tokens/s a sequence, from {PAPER_PROMPT} to {own['total_len']:,} "
            f"tokens with batch {PAPER_BATCH} on one H200, {own['ratio']:.0%} of the ceiling (Table 13)."
        )
    long = (
        baselines.matching(candidate.spec, "table12_long_context")
        .query("context_len <= @need.context_len")
        .tail(1)
    )
    for _, at in long.iterrows():
        lines.append(
            f"Trained at {at['context_len']:,} tokens: NLL {at['nll_dclm']:.3f}, accuracy {at['avg']:.1f} % (Table 12)."
        )
    return lines

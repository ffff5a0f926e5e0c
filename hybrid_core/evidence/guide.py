"""Guided start: from a context, a device and a wish to three of the paper's designs, each with what
it gains and what it costs."""

from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from hybrid_core.costs.fit import fit
from hybrid_core.costs.model import model_costs
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality.mixture import mixture
from hybrid_core.evidence.quality.quoted import (
    TRAINED,
    Size,
    printed_accuracy,
    trained,
    trained_otherwise,
)
from hybrid_core.evidence.throughput import beside_ceiling, nearest_length
from hybrid_core.speed import hardware
from hybrid_core.speed.roofline import predict
from hybrid_core.validation import Frozen
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT, Workload

Wish = Literal["quality", "balance", "speed"]
ROLES: dict[Wish, str] = {
    "quality": "Best quality",
    "balance": "Balanced",
    "speed": "Fastest",
}
# The part of the best design that the paper itself measured at the speed that is asked for.
PROVEN = "Measured fast enough on an H200"
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

    `tokens_per_s`: the ceiling of a sequence to three digits. What is chosen by it is chosen by
    what is shown. `measured`: tokens/s a sequence that the paper's own code reached in such a use;
    `problem`: why the design does not do; `doubt`: why it may not; `proof`: where the paper
    measured the speed that is asked for."""

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
    hybrids = [known for known in trained(need.size) if _no_hybrid(known[0]) is None]
    return [_candidate(spec, row, need) for spec, row in hybrids]


def left_out(size: Size) -> list[LeftOut]:
    """The other designs of a size in its table, each with the reason."""
    found = []
    for spec, _ in trained(size):
        why = _no_hybrid(spec)
        if why:
            found.append(LeftOut(spec.name, why))
    _, _, training = TRAINED[size]
    for spec in trained_otherwise(size):
        found.append(LeftOut(spec.name, _no_hybrid(spec) or f"not printed at {training}"))
    return found


def _no_hybrid(spec: ArchSpec) -> str | None:
    """What a stack is made of, where the paper does not call it a hybrid."""
    mixed = mixture(spec.pattern)
    return NO_HYBRID.get(mixed.family) if mixed else None


# ---------------------------------------------------------------- the choice


def propose(need: Need) -> list[Proposal]:
    """Up to three designs that fit and are fast enough, the wished one first. Where none is, the
    fastest, which says what it misses.

    Best quality has the lowest NLL that is shown, Fastest the highest ceiling that is shown.
    Balanced lies strictly between in both. Speeds are ceilings, so where one is asked for, the best
    of those that the paper measured at it comes second."""
    found = candidates(need)
    good = [candidate for candidate in found if candidate.problem is None]
    if not good:
        return [_proposal("Nearest miss", max(found, key=_speed), need)]
    parts = _parts(good)
    wished_first = sorted(parts, key=lambda wish: (wish != need.wish, list(ROLES).index(wish)))
    order = [(ROLES[wish], parts[wish]) for wish in wished_first]
    proven = [candidate for candidate in good if candidate.proof]
    if proven:
        order.insert(1, (PROVEN, min(proven, key=_loss)))
    proposals, seen = [], set()
    for role, candidate in order:
        if candidate.spec.name not in seen:
            seen.add(candidate.spec.name)
            proposals.append(_proposal(role, candidate, need))
    return proposals[:MOST]


def _parts(good: list[Candidate]) -> dict[Wish, Candidate]:
    """The design for each wish; Balanced only where one lies between the other two."""
    best = min(good, key=lambda candidate: (candidate.nll, -candidate.tokens_per_s))
    fastest = max(good, key=lambda candidate: (candidate.tokens_per_s, -candidate.nll))
    parts: dict[Wish, Candidate] = {"quality": best, "speed": fastest}
    middle = _between(good, best, fastest)
    if middle:
        parts["balance"] = middle
    return parts


def _loss(candidate: Candidate) -> float:
    return candidate.nll


def _speed(candidate: Candidate) -> float:
    return candidate.tokens_per_s


def _between(
    good: list[Candidate],
    best: Candidate,
    fastest: Candidate,
) -> Candidate | None:
    """Of those strictly between best and fastest, in NLL and speed, the one that gives away least,
    each as a share of the way."""
    nll_way = (fastest.nll - best.nll) or 1
    speed_way = (fastest.tokens_per_s - best.tokens_per_s) or 1

    def given_away(candidate: Candidate) -> float:
        nll = (candidate.nll - best.nll) / nll_way
        speed = (fastest.tokens_per_s - candidate.tokens_per_s) / speed_way
        return nll + speed

    middle = []
    for candidate in good:
        slower = best.tokens_per_s < candidate.tokens_per_s < fastest.tokens_per_s
        if slower and best.nll < candidate.nll < fastest.nll:
            middle.append(candidate)
    return min(middle, key=given_away, default=None)


# ---------------------------------------------------------------- one candidate


def _candidate(spec: ArchSpec, row: pd.Series, need: Need) -> Candidate:
    work = need.workload
    device = hardware.get(need.hardware)
    speed = float(predict(spec, work, device).decode_tokens_per_s) / need.batch_size
    problem = _problem(fit(spec, work, device).problem, speed, need)
    own = nearest_length(spec, need.context_len)
    doubt = None
    proof = None
    if not problem:
        doubt = _doubt(spec, need, speed)
        proof = _proof(spec, need, speed)
    return Candidate(
        spec,
        nll=float(row["nll_dclm"]),
        accuracy=printed_accuracy(row),
        cache_bytes=_cache_bytes(spec, need),
        tokens_per_s=float(f"{speed:.3g}"),
        measured=own["paper_a_sequence"] if own else None,
        problem=problem,
        doubt=doubt,
        proof=proof,
    )


def _cache_bytes(spec: ArchSpec, need: Need) -> int:
    """Exact cache of a sequence."""
    return int(model_costs(spec).cache_bytes(need.context_len, "exact", need.workload))


def _problem(too_big: str | None, speed: float, need: Need) -> str | None:
    """Why a design does not do: it does not fit, or is too slow even at its ceiling."""
    problems = []
    if too_big:
        problems.append(too_big)
    if speed < need.min_tokens_per_s:
        problems.append(
            f"decodes at {speed:,.0f} tokens/s a sequence, "
            f"{need.min_tokens_per_s:,.0f} are asked for"
        )
    return "; ".join(problems) or None


_PROFILE = "Profile it before you rely on it"


def _doubt(spec: ArchSpec, need: Need, ceiling: float) -> str | None:
    """Why the speed that is asked for is doubtful though the ceiling reaches it: the paper's own
    measurement does not, or hardly any code could."""
    asked = need.min_tokens_per_s
    row = nearest_length(spec, need.context_len)
    if row:
        each = row["paper_a_sequence"]
        if each >= asked:
            return None
        return (
            f"The ceiling reaches {asked:.0f} tokens/s; the paper's own code reached {each:.0f} "
            f"a sequence on an H200, {row['ratio']:.0%} of its ceiling (Table 13). {_PROFILE}"
        )
    share, most = asked / ceiling, _largest_ratio()
    if share <= most:
        return None
    return (
        f"{asked:.0f} tokens/s take {share:.0%} of the ceiling. The paper did not measure this "
        f"design; of what it measured no design reached more than {most:.0%} of its ceiling "
        f"(Table 13). {_PROFILE}"
    )


def _largest_ratio() -> float:
    """The largest share of its ceiling that a design reached in Table 13."""
    ratios: list[float] = []
    for spec, _ in trained("1B"):
        ratios += [row["ratio"] for row in beside_ceiling(spec)]
    return max(ratios)


def _proof(spec: ArchSpec, need: Need, ceiling: float) -> str | None:
    """Where the paper measured the speed that is asked for, at no shorter context and no smaller
    batch."""
    asked = need.min_tokens_per_s
    if asked <= 0 or need.batch_size > PAPER_BATCH:
        return None
    rows = [row for row in beside_ceiling(spec) if row["total_len"] >= need.context_len]
    best = max(rows, key=_speed_of_a_sequence, default=None)
    if best is None or asked > best["paper_a_sequence"]:
        return None
    return (
        f"The paper's own code reached {best['paper_a_sequence']:.0f} tokens/s a sequence on an "
        f"H200, {best['ratio']:.0%} of its ceiling (Table 13). Here {asked:.0f} take "
        f"{asked / ceiling:.0%} of the ceiling. {_PROFILE}"
    )


def _speed_of_a_sequence(row: dict[str, Any]) -> float:
    return float(row["paper_a_sequence"])


# ---------------------------------------------------------------- trade-offs


def _proposal(role: str, candidate: Candidate, need: Need) -> Proposal:
    return Proposal(role, candidate, tuple(_trade_offs(candidate, need)))


def _trade_offs(candidate: Candidate, need: Need) -> list[str]:
    """What the paper prints of the design beside the Llama of its size."""
    llamas = [known for known in trained(need.size) if set(known[0].pattern) == {"A"}]
    llama, row = llamas[0]
    lines = [
        _quality_line(candidate, row, need),
        f"Keeps {candidate.cache_bytes / 2**20:,.0f} MiB of cache a sequence at "
        f"{need.context_len:,} tokens against Llama's {_cache_bytes(llama, need) / 2**20:,.0f} MiB "
        "(exact).",
    ]
    own = nearest_length(candidate.spec, need.context_len)
    base = nearest_length(llama, need.context_len)
    if own and base:
        lines.append(_speed_line(own, base))
    rows = baselines.matching(candidate.spec, "table12_long_context")
    for _, at in rows.query("context_len <= @need.context_len").tail(1).iterrows():
        lines.append(
            f"Trained at {at['context_len']:,} tokens: NLL {at['nll_dclm']:.3f}, "
            f"accuracy {at['avg']:.1f} % (Table 12)."
        )
    return lines


def _quality_line(candidate: Candidate, llama: pd.Series, need: Need) -> str:
    table, _, training = TRAINED[need.size]
    number, _ = baselines.TABLES[table]
    said = f"NLL {candidate.nll:.3f} against Llama's {llama['nll_dclm']:.3f}"
    if candidate.accuracy:
        said += f", accuracy {candidate.accuracy:.1f} against {llama['avg']:.1f} %"
    return f"{said} at {need.size}, {training} (Table {number})."


def _speed_line(own: dict[str, Any], llama: dict[str, Any]) -> str:
    return (
        f"Measured by the paper: {own['paper_a_sequence']:.0f} against Llama's "
        f"{llama['paper_a_sequence']:.0f} tokens/s a sequence, from {PAPER_PROMPT} to "
        f"{own['total_len']:,} tokens with batch {PAPER_BATCH} on one H200, "
        f"{own['ratio']:.0%} of the ceiling (Table 13)."
    )

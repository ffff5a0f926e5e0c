"""Guided start: from a context, a device and a wish to three of the paper's designs, each with its
gains and costs."""

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
# The role of the best design that the paper itself measured at the requested speed.
PROVEN = "Measured fast enough on an H200"
MOST = 3
NO_HYBRID = {
    "llama": "attention only",
    "mamba": "Mamba only",
    "swa": "attention among windows",
    "window": "windows only",
}


class Need(Frozen):
    """A user's answers. `min_tokens_per_s`: the decode speed that each sequence must reach; 0 sets
    no minimum."""

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
    """A trained design in the use that a user describes. NLL and accuracy are quoted, the rest is
    exact or predicted.

    `tokens_per_s`: the ceiling per sequence, rounded to three digits, so that designs are ranked by
    the figures that the page shows. `measured`: tokens/s per sequence that the paper's own code
    reached in a similar use. `problem`: why the design does not meet the need; `doubt`: why it may
    not meet it; `proof`: where the paper measured the requested speed."""

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
    """A candidate with its role and its trade-offs, one line each with its source."""

    role: str
    candidate: Candidate
    trade_offs: tuple[str, ...]


class LeftOut(NamedTuple):
    """A trained design that is not a candidate, and why."""

    name: str
    why: str


def candidates(need: Need) -> list[Candidate]:
    """Every hybrid that the paper trained at a size: attention or intra-hybrid blocks among Mamba
    layers, or intra-hybrid blocks alone."""
    found = []
    for spec, row in trained(need.size):
        if _no_hybrid(spec) is None:
            found.append(_candidate(spec, row, need))
    return found


def left_out(size: Size) -> list[LeftOut]:
    """The other designs in the table of a size, each with the reason it is left out."""
    found = []
    for spec, _ in trained(size):
        why = _no_hybrid(spec)
        if why:
            found.append(LeftOut(spec.name, why))
    _, _, training = TRAINED[size]
    for spec in trained_otherwise(size):
        why = _no_hybrid(spec) or f"not printed at {training}"
        found.append(LeftOut(spec.name, why))
    return found


def _no_hybrid(spec: ArchSpec) -> str | None:
    """The layers of a stack that the paper does not call a hybrid; None for a hybrid."""
    mixed = mixture(spec.pattern)
    if mixed is None:
        return None
    return NO_HYBRID.get(mixed.family)


# ---------------------------------------------------------------- the choice


def propose(need: Need) -> list[Proposal]:
    """Up to three designs that fit and are fast enough, the one wished for first. If none
    qualifies: the fastest design, with what it misses.

    Best quality has the lowest NLL shown, Fastest the highest ceiling shown. Balanced lies strictly
    between them in both. Speeds are ceilings. So if a minimum speed is set, the second proposal is
    the best design that the paper measured at that speed."""
    found = candidates(need)
    good = [candidate for candidate in found if candidate.problem is None]
    if not good:
        fastest = max(found, key=_speed)
        return [_proposal("Nearest miss", fastest, need)]
    parts = _parts(good)
    in_order = [wish for wish in ROLES if wish in parts]
    if need.wish in parts:
        in_order.remove(need.wish)
        in_order.insert(0, need.wish)
    order = [(ROLES[wish], parts[wish]) for wish in in_order]
    proven = [candidate for candidate in good if candidate.proof]
    if proven:
        best_proven = min(proven, key=_loss)
        order.insert(1, (PROVEN, best_proven))
    proposals = []
    seen = set()
    for role, candidate in order:
        if candidate.spec.name not in seen:
            seen.add(candidate.spec.name)
            proposals.append(_proposal(role, candidate, need))
    return proposals[:MOST]


def _parts(good: list[Candidate]) -> dict[Wish, Candidate]:
    """The design for each wish; Balanced only if one lies between the other two."""
    best = min(good, key=_loss_then_speed)
    fastest = max(good, key=_speed_then_loss)
    parts: dict[Wish, Candidate] = {"quality": best, "speed": fastest}
    middle = _between(good, best, fastest)
    if middle:
        parts["balance"] = middle
    return parts


def _loss_then_speed(candidate: Candidate) -> tuple[float, float]:
    return candidate.nll, -candidate.tokens_per_s


def _speed_then_loss(candidate: Candidate) -> tuple[float, float]:
    return candidate.tokens_per_s, -candidate.nll


def _loss(candidate: Candidate) -> float:
    return candidate.nll


def _speed(candidate: Candidate) -> float:
    return candidate.tokens_per_s


def _between(
    good: list[Candidate],
    best: Candidate,
    fastest: Candidate,
) -> Candidate | None:
    """Of the designs strictly between best and fastest in both NLL and speed, the one that gives up
    least. What it gives up is a share of the gap between best and fastest, summed over both."""
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
    predicted = predict(spec, work, device)
    speed = float(predicted.decode_tokens_per_s) / need.batch_size
    too_big = fit(spec, work, device).problem
    problem = _problem(too_big, speed, need)
    own = nearest_length(spec, need.context_len)
    measured = None
    if own:
        measured = own["paper_a_sequence"]
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
        measured=measured,
        problem=problem,
        doubt=doubt,
        proof=proof,
    )


def _cache_bytes(spec: ArchSpec, need: Need) -> int:
    """Exact cache per sequence."""
    costs = model_costs(spec)
    return int(costs.cache_bytes(need.context_len, "exact", need.workload))


def _problem(too_big: str | None, speed: float, need: Need) -> str | None:
    """Why a design does not meet the need: it does not fit, or is too slow even at its ceiling."""
    problems = []
    if too_big:
        problems.append(too_big)
    if speed < need.min_tokens_per_s:
        problems.append(
            f"decodes at {speed:,.0f} tokens/s per sequence, "
            f"{need.min_tokens_per_s:,.0f} are required"
        )
    return "; ".join(problems) or None


_PROFILE = "Profile it before you rely on it"


def _doubt(spec: ArchSpec, need: Need, ceiling: float) -> str | None:
    """Why the requested speed is doubtful although the ceiling allows it. Either the paper's own
    measurement is below it, or it takes a larger share of the ceiling than any measured design
    reached."""
    asked = need.min_tokens_per_s
    row = nearest_length(spec, need.context_len)
    if row:
        each = row["paper_a_sequence"]
        if each >= asked:
            return None
        return (
            f"The ceiling allows {asked:.0f} tokens/s; the paper's own code reached {each:.0f} "
            f"per sequence on an H200, {row['ratio']:.0%} of its ceiling (Table 13). {_PROFILE}"
        )
    share = asked / ceiling
    most = _largest_ratio()
    if share <= most:
        return None
    return (
        f"{asked:.0f} tokens/s take {share:.0%} of the ceiling. The paper did not measure this "
        f"design; none that it measured reached more than {most:.0%} of its ceiling "
        f"(Table 13). {_PROFILE}"
    )


def _largest_ratio() -> float:
    """The largest share of its ceiling that any design in Table 13 reached."""
    ratios: list[float] = []
    for spec, _ in trained("1B"):
        ratios += [row["ratio"] for row in beside_ceiling(spec)]
    return max(ratios)


def _proof(spec: ArchSpec, need: Need, ceiling: float) -> str | None:
    """Where the paper measured the requested speed, with a context and a batch at least as
    large."""
    asked = need.min_tokens_per_s
    if asked <= 0 or need.batch_size > PAPER_BATCH:
        return None
    printed = beside_ceiling(spec)
    rows = [row for row in printed if row["total_len"] >= need.context_len]
    best = max(rows, key=_speed_of_a_sequence, default=None)
    if best is None or asked > best["paper_a_sequence"]:
        return None
    return (
        f"The paper's own code reached {best['paper_a_sequence']:.0f} tokens/s per sequence on an "
        f"H200, {best['ratio']:.0%} of its ceiling (Table 13). Here {asked:.0f} tokens/s take "
        f"{asked / ceiling:.0%} of the ceiling. {_PROFILE}"
    )


def _speed_of_a_sequence(row: dict[str, Any]) -> float:
    return float(row["paper_a_sequence"])


# ---------------------------------------------------------------- trade-offs


def _proposal(role: str, candidate: Candidate, need: Need) -> Proposal:
    trade_offs = _trade_offs(candidate, need)
    return Proposal(role, candidate, tuple(trade_offs))


def _trade_offs(candidate: Candidate, need: Need) -> list[str]:
    """What the paper prints about the design, next to the Llama of its size."""
    llama, row = _llama(need.size)
    own_mib = candidate.cache_bytes / 2**20
    llama_mib = _cache_bytes(llama, need) / 2**20
    keeps = f"Keeps {own_mib:,.0f} MiB of cache per sequence at {need.context_len:,} tokens"
    lines = [
        _quality_line(candidate, row, need),
        f"{keeps} against Llama's {llama_mib:,.0f} MiB (exact).",
    ]
    own = nearest_length(candidate.spec, need.context_len)
    base = nearest_length(llama, need.context_len)
    if own and base:
        lines.append(_speed_line(own, base))
    rows = baselines.matching(candidate.spec, "table12_long_context")
    not_longer = rows.query("context_len <= @need.context_len").to_dict("records")
    if not_longer:
        longest = not_longer[-1]
        scores = f"NLL {longest['nll_dclm']:.3f}, accuracy {longest['avg']:.1f} %"
        lines.append(f"Trained at {longest['context_len']:,} tokens: {scores} (Table 12).")
    return lines


def _llama(size: Size) -> tuple[ArchSpec, pd.Series]:
    """The paper's Llama of a size, with its printed row."""
    llamas = [known for known in trained(size) if set(known[0].pattern) == {"A"}]
    return llamas[0]


def _quality_line(candidate: Candidate, llama: pd.Series, need: Need) -> str:
    table, _, training = TRAINED[need.size]
    number, _ = baselines.TABLES[table]
    quality = f"NLL {candidate.nll:.3f} against Llama's {llama['nll_dclm']:.3f}"
    if candidate.accuracy:
        quality += f", accuracy {candidate.accuracy:.1f} against {llama['avg']:.1f} %"
    return f"{quality} at {need.size}, {training} (Table {number})."


def _speed_line(own: dict[str, Any], llama: dict[str, Any]) -> str:
    return (
        f"Measured by the paper: {own['paper_a_sequence']:.0f} against Llama's "
        f"{llama['paper_a_sequence']:.0f} tokens/s per sequence, from {PAPER_PROMPT} to "
        f"{own['total_len']:,} tokens with batch {PAPER_BATCH} on one H200, "
        f"{own['ratio']:.0%} of the ceiling (Table 13)."
    )

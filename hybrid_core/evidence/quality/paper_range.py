"""What the paper covers. A design is covered if each trait that bears on the loss also occurs in
the paper's designs of the same family."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.built import options
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.evidence import baselines
from hybrid_core.evidence.quality.ablations import AXES
from hybrid_core.evidence.quality.mixture import mixture
from hybrid_core.evidence.quality.scaling import active_params, scaling_rows
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer

Trait = tuple[str, Any]  # a float may lie between the paper's, anything else must be one of them
Traits = set[Trait]

SLACK = 1.1  # how far beyond the paper's own span a number may lie
_AXES = {f"intra.{axis}" for axis in AXES}


@cache
def paper_designs() -> tuple[ArchSpec, ...]:
    """The paper's presets with its final choice of intra-hybrid block. The others are in Tables 18
    to 20, which have no ratios."""
    choice = _axes_of(presets.get("intra-1to5-1b").spec)
    found = []
    for name in presets.names():
        preset = presets.get(name)
        from_paper = "2510.04800" in preset.source
        if from_paper and _axes_of(preset.spec) <= choice:
            found.append(preset.spec)
    return tuple(found)


def _axes_of(spec: ArchSpec) -> Traits:
    return {trait for trait in _traits(spec) if trait[0] in _AXES}


@cache
def _known(family: str, ffn: str) -> dict[str, set[Any]]:
    """The traits of the paper's designs of a family and a kind of feed-forward: key -> values."""
    known: dict[str, set[Any]] = {}
    for spec in paper_designs():
        mixed = mixture(spec.pattern)
        same_family = mixed is not None and mixed.family == family
        if same_family and _ffn(spec) == ffn:
            for key, value in _traits(spec):
                known.setdefault(key, set()).add(value)
    return known


def uncovered(spec: ArchSpec, family: str, tokens: float) -> str | None:
    """One line about the first trait of a design that no paper design with the same family and
    feed-forward has, or None."""
    known = _known(family, _ffn(spec))
    if not known:
        return f"ffn: {_ffn(spec)} - the paper has no {family} designs with it"
    for key, value in sorted(_traits(spec), key=str):
        seen = known.get(key, set())
        unlike = _unlike(key, value, seen, family)
        if unlike:
            return unlike
    return _untrained(spec, tokens)


def _unlike(
    key: str,
    value: Any,
    seen: set[Any],
    family: str,
) -> str | None:
    """One line that says why the values seen in the paper do not cover a trait; None if they do."""
    if isinstance(value, float) and seen:
        least = min(seen)
        most = max(seen)
        if least / SLACK <= value <= most * SLACK:
            return None
        span = f"{least:,.3g} to {most:,.3g}"
        return f"{key}: {value:,.3g} - the paper's {family} designs have {span}"
    if value in seen:
        return None
    have = " or ".join(sorted(map(str, seen))) or "none"
    line = f"{key}: {value} - the paper's {family} designs have {have}"
    if key in _AXES:
        line += "; others only in stacks of this block alone (Tables 18 and 19)"
    return line


def _ffn(spec: ArchSpec) -> str:
    return _kind(spec.stack[0].ffn)


def _kind(ffn: AnyFfn | None) -> str:
    if ffn is None:
        return "none"
    return ffn.kind


def _untrained(spec: ArchSpec, tokens: float) -> str | None:
    """One line that says why this much training is outside the runs of Tables 9 to 15, or None."""
    costs = model_costs(spec)
    flops_per_token = costs.train_flops_per_token(baselines.PAPER_CONTEXT, "paper")
    flops = tokens * float(flops_per_token)
    rows = scaling_rows()
    least_flops = rows["train_flops"].min()
    most_flops = baselines.table("table09_1b")["train_flops"].max()
    limits = {
        "tokens": (tokens, rows["tokens"].min(), rows["tokens"].max()),
        "training FLOPs": (flops, least_flops, most_flops),
    }
    size = f"{active_params(spec):.2g} parameters and {tokens:.2g} tokens"
    for what, (value, least, most) in limits.items():
        if not least / SLACK <= value <= most * SLACK:
            span = f"{least:.2g} to {most:.2g}"
            return f"{what}: {value:.2g} for {size} - the paper's runs have {span}"
    return None


# ---------------------------------------------------------------- traits


def _traits(spec: ArchSpec) -> Traits:
    """The traits of a design that bear on its loss."""
    found: Traits = {
        ("vocab_size", spec.vocab_size),
        ("d_model", float(spec.d_model)),
        ("parameters", float(active_params(spec))),
    }
    mixed = mixture(spec.pattern)
    if mixed:
        found.add(("share of attention or intra-hybrid layers", float(mixed.share)))
    for layer in set(spec.stack):
        found.update(_layer_traits(layer, spec.d_model))
    for line in options(spec):
        found.add(("option", line))
    return found


def _layer_traits(layer: Layer, d_model: int) -> Iterator[Trait]:
    yield from _mixer_traits(layer.mixer, d_model)
    yield from _ffn_traits(layer.ffn, d_model)


def _mixer_traits(mixer: Mixer, d_model: int) -> Iterator[Trait]:
    if isinstance(mixer, SwaMixer):
        yield "swa.window", mixer.window
        yield "swa.sink", mixer.sink
    if isinstance(mixer, AttentionMixer):
        yield "attention.position", mixer.position
        width = mixer.n_heads * mixer.v_head_dim
        yield "attention width / d_model", width / d_model
    elif isinstance(mixer, Mamba2Mixer):
        yield "ssm.d_ssm / d_model", mixer.d_ssm / d_model
        yield "ssm.d_state", float(mixer.d_state)
    elif isinstance(mixer, IntraMixer):
        for axis in AXES:
            yield f"intra.{axis}", getattr(mixer, axis)
        heads = mixer.attention
        yield "attention.position", heads.position
        yield "intra.d_ssm / d_model", mixer.ssm.d_ssm / d_model
        query_width = heads.n_heads * heads.head_dim
        yield "intra query width / d_model", query_width / d_model
    else:
        yield "mixer", type(mixer).__name__


def _ffn_traits(ffn: AnyFfn | None, d_model: int) -> Iterator[Trait]:
    if isinstance(ffn, SwiGLU):
        yield "ffn.d_ff / d_model", ffn.d_ff / d_model
    elif isinstance(ffn, MoE):
        yield "experts", f"{ffn.n_shared} shared, {ffn.top_k} of {ffn.n_routed}"
        yield "ffn.d_expert / d_model", ffn.d_expert / d_model
    else:
        yield "ffn", _kind(ffn)

"""What the paper covers: a design is inside if designs of the same family in the paper share every
trait that bears on the loss."""

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
        if "2510.04800" in preset.source and _axes_of(preset.spec) <= choice:
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
        if mixed and mixed.family == family and _ffn(spec) == ffn:
            for key, value in _traits(spec):
                known.setdefault(key, set()).add(value)
    return known


def uncovered(spec: ArchSpec, family: str, tokens: float) -> str | None:
    """The first trait of a design that no design of the paper with the same family and feed-forward
    has, in one line, or None."""
    known = _known(family, _ffn(spec))
    if not known:
        return f"ffn: {_ffn(spec)} - the paper has no {family} designs with it"
    for key, value in sorted(_traits(spec), key=str):
        unlike = _unlike(key, value, known.get(key, set()), family)
        if unlike:
            return unlike
    return _untrained(spec, tokens)


def _unlike(
    key: str,
    value: Any,
    seen: set[Any],
    family: str,
) -> str | None:
    """Why a trait is none of those seen, in one line, or None where it is."""
    if isinstance(value, float) and seen:
        least, most = min(seen), max(seen)
        if least / SLACK <= value <= most * SLACK:
            return None
        return (
            f"{key}: {value:,.3g} - the paper's {family} designs have {least:,.3g} to {most:,.3g}"
        )
    if value in seen:
        return None
    have = " or ".join(sorted(map(str, seen))) or "none"
    line = f"{key}: {value} - the paper's {family} designs have {have}"
    if key in _AXES:
        line += "; others only in stacks of nothing else (Tables 18 and 19)"
    return line


def _ffn(spec: ArchSpec) -> str:
    ffn = spec.stack[0].ffn
    return ffn.kind if ffn else "none"


def _untrained(spec: ArchSpec, tokens: float) -> str | None:
    """Why so much training lies outside Tables 9 to 15, in one line, or None."""
    per_token = float(model_costs(spec).train_flops_per_token(baselines.PAPER_CONTEXT, "paper"))
    rows = scaling_rows()
    most_flops = baselines.table("table09_1b")["train_flops"].max()
    limits = {
        "tokens": (tokens, rows["tokens"].min(), rows["tokens"].max()),
        "training FLOPs": (tokens * per_token, rows["train_flops"].min(), most_flops),
    }
    for what, (value, least, most) in limits.items():
        if not least / SLACK <= value <= most * SLACK:
            asked = f"{value:.2g} for {active_params(spec):.2g} parameters and {tokens:.2g} tokens"
            return f"{what}: {asked} - the paper's runs have {least:.2g} to {most:.2g}"
    return None


# ---------------------------------------------------------------- traits


def _traits(spec: ArchSpec) -> Traits:
    """What of a design bears on its loss."""
    found: Traits = {
        ("vocab_size", spec.vocab_size),
        ("d_model", float(spec.d_model)),
        ("parameters", float(active_params(spec))),
    }
    mixed = mixture(spec.pattern)
    if mixed:
        found.add(("share of expensive blocks", float(mixed.share)))
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
        yield "attention width / d_model", mixer.n_heads * mixer.v_head_dim / d_model
    elif isinstance(mixer, Mamba2Mixer):
        yield "ssm.d_ssm / d_model", mixer.d_ssm / d_model
        yield "ssm.d_state", float(mixer.d_state)
    elif isinstance(mixer, IntraMixer):
        for axis in AXES:
            yield f"intra.{axis}", getattr(mixer, axis)
        heads = mixer.attention
        yield "attention.position", heads.position
        yield "intra.d_ssm / d_model", mixer.ssm.d_ssm / d_model
        yield "intra query width / d_model", heads.n_heads * heads.head_dim / d_model
    else:
        yield "mixer", type(mixer).__name__


def _ffn_traits(ffn: AnyFfn | None, d_model: int) -> Iterator[Trait]:
    if isinstance(ffn, SwiGLU):
        yield "ffn.d_ff / d_model", ffn.d_ff / d_model
    elif isinstance(ffn, MoE):
        yield "experts", f"{ffn.n_shared} shared, {ffn.top_k} of {ffn.n_routed}"
        yield "ffn.d_expert / d_model", ffn.d_expert / d_model
    else:
        yield "ffn", ffn.kind if ffn else "none"

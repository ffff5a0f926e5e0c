"""What the paper covers: a design is inside if designs of the same family in the paper share every
trait that bears on the loss."""

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

PAPER_CONTEXT = 8192


@cache
def paper_designs() -> tuple[ArchSpec, ...]:
    """The paper's presets with its final choice of intra-hybrid block; the others stand in Tables
    18 to 20, which have no ratios."""
    found = (presets.get(name) for name in presets.names())
    final = presets.get("intra-1to5-1b").spec
    choice = {
        trait
        for layer in set(final.stack)
        for trait in _layer_traits(layer, final.d_model)
        if trait[0] in _AXES
    }
    paper = [preset.spec for preset in found if "2510.04800" in preset.source]
    return tuple(
        spec for spec in paper if {trait for trait in _traits(spec) if trait[0] in _AXES} <= choice
    )


_AXES = {f"intra.{axis}" for axis in AXES}
SLACK = 1.1  # how far beyond the paper's own span a number may lie


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
    has, or None."""
    known = _known(family, _ffn(spec))
    if not known:
        return f"ffn: {_ffn(spec)} - the paper has no {family} designs with it"
    for key, value in sorted(_traits(spec), key=str):
        seen = known.get(key, set())
        if isinstance(value, float) and seen:
            if not min(seen) / SLACK <= value <= max(seen) * SLACK:
                return f"{key}: {value:,.3g} - the paper's {family} designs have {min(seen):,.3g} to {max(seen):,.3g}"
        elif value not in seen:
            alone = (
                "; others only in stacks of nothing else (Tables 18 and 19)" if key in _AXES else ""
            )
            return f"{key}: {value} - the paper's {family} designs have {' or '.join(sorted(map(str, seen))) or 'none'}{alone}"
    return _untrained(spec, tokens)


def _ffn(spec: ArchSpec) -> str:
    ffn = spec.stack[0].ffn
    return ffn.kind if ffn else "none"


def _untrained(spec: ArchSpec, tokens: float) -> str | None:
    """Whether so much training lies outside Tables 9 to 15."""
    flops, rows = (
        tokens * float(model_costs(spec).train_flops_per_token(PAPER_CONTEXT, "paper")),
        scaling_rows(),
    )
    limits = {
        "tokens": (tokens, rows["tokens"].min(), rows["tokens"].max()),
        "training FLOPs": (
            flops,
            rows["train_flops"].min(),
            baselines.table("table09_1b")["train_flops"].max(),
        ),
    }
    for what, (value, least, most) in limits.items():
        if not least / SLACK <= value <= most * SLACK:
            asked = f"{value:.2g} for {active_params(spec):.2g} parameters and {tokens:.2g} tokens"
            return f"{what}: {asked} - the paper's runs have {least:.2g} to {most:.2g}"
    return None


def _traits(spec: ArchSpec) -> set[tuple[str, Any]]:
    """What of a design bears on its loss: a float may lie between the paper's, anything else must
    be one of them."""
    mixed = mixture(spec.pattern)
    found: set[tuple[str, Any]] = {
        ("vocab_size", spec.vocab_size),
        ("d_model", float(spec.d_model)),
        ("parameters", float(active_params(spec))),
    }
    if mixed:
        found.add(("share of expensive blocks", float(mixed.share)))
    for layer in set(spec.stack):
        found |= _layer_traits(layer, spec.d_model)
    return found | {("option", line) for line in options(spec)}


def _layer_traits(layer: Layer, d_model: int) -> set[tuple[str, Any]]:
    return _mixer_traits(layer.mixer, d_model) | _ffn_traits(layer.ffn, d_model)


def _mixer_traits(mixer: Mixer, d_model: int) -> set[tuple[str, Any]]:
    found: set[tuple[str, Any]] = set()
    if isinstance(mixer, SwaMixer):
        found |= {("swa.window", mixer.window), ("swa.sink", mixer.sink)}
    if isinstance(mixer, AttentionMixer):
        found |= {
            ("attention.position", mixer.position),
            ("attention width / d_model", mixer.n_heads * mixer.v_head_dim / d_model),
        }
    elif isinstance(mixer, Mamba2Mixer):
        found |= {
            ("ssm.d_ssm / d_model", mixer.d_ssm / d_model),
            ("ssm.d_state", float(mixer.d_state)),
        }
    elif isinstance(mixer, IntraMixer):
        found |= {(f"intra.{axis}", getattr(mixer, axis)) for axis in AXES}
        found |= {
            ("attention.position", mixer.attention.position),
            ("intra.d_ssm / d_model", mixer.ssm.d_ssm / d_model),
        }
        found |= {
            (
                "intra query width / d_model",
                mixer.attention.n_heads * mixer.attention.head_dim / d_model,
            )
        }
    else:
        found |= {("mixer", type(mixer).__name__)}
    return found


def _ffn_traits(ffn: AnyFfn | None, d_model: int) -> set[tuple[str, Any]]:
    if isinstance(ffn, SwiGLU):
        return {("ffn.d_ff / d_model", ffn.d_ff / d_model)}
    if isinstance(ffn, MoE):
        return {
            ("experts", f"{ffn.n_shared} shared, {ffn.top_k} of {ffn.n_routed}"),
            ("ffn.d_expert / d_model", ffn.d_expert / d_model),
        }
    return {("ffn", ffn.kind if ffn else "none")}

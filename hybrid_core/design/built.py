"""Two levels of knowing a design: *costed* (parameters, FLOPs and cache exact) and *built* (our
modules compute it too).

A mixer without a module is costed only, and so is any `quiet` option that differs from its default,
unless BUILT names it."""

from collections.abc import Iterator, Set

from hybrid_core.design.constants import ABSORBED
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.registry import KINDS, kind_of
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import Frozen, SpecError, short

# class -> the options beyond its defaults that its module computes.
_ATTENTION = {"qkv_bias", "out_bias", "qk_norm", "softmax_scale", "reuse_kv"}
BUILT: dict[str, set[str]] = {
    "AttentionMixer": _ATTENTION,
    "SwaMixer": _ATTENTION,
    "Mamba2Mixer": {"gated_norm", "norm_first", "in_bias", "out_bias", "dt_min"},
    "Mamba1Mixer": {"dt_bc_weight", "dt_bc_eps", "n_heads", "proj_bias"},
    "IntraMixer": {"ssm_norm", "whole_norm"},
    "SharedBlockMixer": {"adapter_rank", "attention_adapters"},
    "SwiGLU": {"activation", "bias"},
    "Mlp": {"bias"},
    "ArchSpec": {
        "meta_tokens",
        "quantization",
        "state_dtype",
    },  # the last two say how values are kept, not what they are
    "MoE": {"d_shared", "score", "norm_top_k", "scale", "gated", "activation", "d_latent"},
}

_BRANCHES = (AttentionMixer, SwaMixer, Mamba1Mixer, Mamba2Mixer)  # of an intra-hybrid block


def not_built(spec: ArchSpec) -> str | None:
    """The first thing about a design that our modules do not compute, or None where they compute
    all of it."""
    return next(_reasons(spec), None)


def require_built(spec: ArchSpec) -> None:
    """Raise SpecError, with the reason, for a design that is costed and not built."""
    if reason := not_built(spec):
        raise SpecError(
            f"{reason} - costed, not built: parameters, FLOPs and cache are known, but our modules do not compute it"
        )


def options(spec: ArchSpec) -> set[str]:
    """Every option of a design that differs from its default, built or not, as `name: value`."""
    mixers = [layer.mixer for layer in spec.stack]
    inside = [getattr(mixer, key, None) for mixer in mixers for key in ("attention", "ssm")]
    parts = {
        part
        for part in (*mixers, *inside, *(layer.ffn for layer in spec.stack), spec)
        if isinstance(part, Frozen)
    }
    return {line for part in parts for line in _differing(part, {"mixers", "ffns"})}


def _reasons(spec: ArchSpec) -> Iterator[str]:
    for layer in dict.fromkeys(spec.stack):
        yield from _of_mixer(layer.mixer)
        if layer.ffn is not None:
            yield from _of_ffn(layer.ffn)
    yield from _options(spec, "")
    for key, value in spec.constants.items():
        if key not in ABSORBED:
            yield f"constants.{key}: {short(value)}"


def _of_mixer(mixer: Mixer) -> Iterator[str]:
    kind = kind_of(mixer)
    if kind.module is None:
        yield kind.label
    else:
        yield from _options(mixer, kind.name)
    if isinstance(mixer, SharedBlockMixer):
        yield from _options(mixer.ffn, "shared_block.ffn")
        if not isinstance(mixer.ffn, SwiGLU):
            yield f"shared_block.ffn: {mixer.ffn.kind}"
        if mixer.attention.reuse_kv:
            yield "shared_block.attention.reuse_kv: True"
    if isinstance(mixer, IntraMixer):
        yield from (
            f"intra: {part.kind}"
            for part in (mixer.attention, mixer.ssm)
            if type(part) not in _BRANCHES
        )


def _of_ffn(ffn: AnyFfn) -> Iterator[str]:
    yield from _options(ffn, "ffn")
    if ffn.activation == "clamped_swiglu":
        yield f"ffn.activation: {ffn.activation}"


def _options(part: Frozen, name: str, also: Set[str] = frozenset()) -> Iterator[str]:
    """Options of one part and of mixers inside it that are not BUILT; `also` are built in this
    place alone."""
    known = BUILT.get(type(part).__name__, set()) | {"mixers", "ffns", "constants"} | also
    for key in type(part).model_fields:
        value = getattr(part, key)
        if isinstance(value, Frozen) and type(value) in KINDS:
            reads = {"d_input"} if isinstance(part, SharedBlockMixer) else set()
            yield from _options(value, f"{name}.{key}", reads)
    yield from (f"{name}.{line}".removeprefix(".") for line in _differing(part, known))


def _differing(part: Frozen, known: Set[str]) -> Iterator[str]:
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        if field.exclude_if is not None and key not in known and value != field.get_default():
            yield f"{key}: {short(value)}"

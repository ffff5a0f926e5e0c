"""What a rule may test about a design and its use."""

import math
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.quality.mixture import mixture
from hybrid_core.evidence.quality.scaling import SAME_SIZE, active_params
from hybrid_core.ffns.moe import MoE
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import Frozen

Scenario = Literal["long", "medium", "short"]
SCENARIOS: dict[Scenario, str] = {
    "long": "over 16K",
    "medium": "8K to 16K",
    "short": "under 8K",
}
Scale = Literal["100M", "350M", "1B", "3B"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Axes = tuple[str, str, str, str, str]  # norm, scalar, fusion, value, out of an intra-hybrid block


def scenario(context_len: int) -> Scenario:
    """long: over 16K tokens of context, medium: 8K to 16K, short: under 8K."""
    if context_len > 16_384:
        return "long"
    if context_len >= 8_192:
        return "medium"
    return "short"


@cache
def _sizes() -> dict[Scale, int]:
    """Non-embedding parameters of the paper's Llama at each scale."""
    sizes = {}
    for scale in SCALES:
        llama = presets.get(f"llama-{scale.lower()}")
        sizes[scale] = active_params(llama.spec)
    return sizes


def nearest_scale(spec: ArchSpec) -> Scale | None:
    """The paper's scale nearest in active non-embedding parameters, or None if it is more than a
    factor of SAME_SIZE away."""
    params = active_params(spec)
    distances: dict[Scale, float] = {}
    for scale, size in _sizes().items():
        distances[scale] = abs(math.log(params / size))
    nearest = min(SCALES, key=distances.__getitem__)
    if distances[nearest] > math.log(SAME_SIZE):
        return None
    return nearest


def _of_the_papers_kind(mixer: Mixer) -> bool:
    """Whether a mixer is of a kind that the paper trained. A subclass, such as differential
    attention, is another kind."""
    if isinstance(mixer, IntraMixer):
        inner = (type(mixer.attention), type(mixer.ssm))
        papers_kinds = inner == (AttentionMixer, Mamba2Mixer)
        return papers_kinds and not (mixer.whole_norm or mixer.ssm_norm)
    if isinstance(mixer, AttentionMixer) and mixer.reuse_kv:
        return False
    return type(mixer) in (AttentionMixer, SwaMixer, Mamba2Mixer)


class Facts(NamedTuple):
    """What rules may test about a design and its use. A fact is None if the design has no such
    part, and None meets no condition. "Expensive" layers are attention layers and intra-hybrid
    blocks, as opposed to Mamba layers."""

    scale: Scale | None  # the paper's scale nearest this size
    family: str | None  # llama, mamba, inter, intra, swa, or window (no global attention)
    share_with_attention: float | None
    several_with_attention: bool
    first_layer_has_attention: bool
    last_layer_has_attention: bool
    sandwich: bool  # attention at both ends
    cluster: bool  # several layers with attention, all next to one another
    centre: float | None  # mean depth of the layers with attention, 0 to 1
    experts: bool
    intra_norm: str | None
    intra_scalar: str | None
    intra_fusion: str | None
    intra_value: str | None
    intra_out: str | None
    intra_axes: Axes | None  # all five of them
    intra_query_share: float | None  # query width over d_model
    context_len: int
    needle_distance: int | None  # tokens between the needle and the end
    needle_beyond_window: bool


def facts(
    spec: ArchSpec,
    context_len: int,
    needle_distance: int | None = None,
) -> Facts:
    """The facts of a design used at `context_len` tokens, with a needle `needle_distance` tokens
    back."""
    mixers = [layer.mixer for layer in spec.stack]
    mixed = None
    blocks = _block_facts([], spec.d_model)
    if all(map(_of_the_papers_kind, mixers)):
        mixed = mixture(spec.pattern)
        blocks = _block_facts(mixers, spec.d_model)
    ffns = [layer.ffn for layer in spec.stack]
    return Facts(
        scale=nearest_scale(spec),
        family=mixed and mixed.family,
        share_with_attention=mixed and mixed.share,
        several_with_attention=bool(mixed and len(mixed.with_attention) > 1),
        first_layer_has_attention=bool(mixed and mixed.first),
        last_layer_has_attention=bool(mixed and mixed.last),
        sandwich=bool(mixed and mixed.first and mixed.last),
        cluster=bool(mixed and mixed.cluster),
        centre=mixed and mixed.centre,
        experts=any(isinstance(ffn, MoE) for ffn in ffns),
        **blocks,
        context_len=context_len,
        needle_distance=needle_distance,
        needle_beyond_window=_beyond_window(mixers, context_len, needle_distance),
    )


_BLOCK_FACTS = [name for name in Facts._fields if name.startswith("intra_")]


def _block_facts(mixers: list[Mixer], d_model: int) -> dict[str, Any]:
    """The facts of the first intra-hybrid block; all None if there is none."""
    blocks = [mixer for mixer in mixers if isinstance(mixer, IntraMixer)]
    if not blocks:
        return dict.fromkeys(_BLOCK_FACTS)
    block = blocks[0]
    query_width = block.attention.n_heads * block.attention.head_dim
    axes = (
        block.norm,
        block.scalar,
        block.fusion,
        block.value,
        block.out,
    )
    return {
        "intra_norm": block.norm,
        "intra_scalar": block.scalar,
        "intra_fusion": block.fusion,
        "intra_value": block.value,
        "intra_out": block.out,
        "intra_axes": axes,
        "intra_query_share": query_width / d_model,
    }


def _beyond_window(
    mixers: list[Mixer],
    context_len: int,
    needle_distance: int | None,
) -> bool:
    """Whether a needle lies beyond every window and is not among the sinks."""
    windows = [mixer for mixer in mixers if isinstance(mixer, SwaMixer)]
    if not windows or not needle_distance:
        return False
    widest_window = max(mixer.window for mixer in windows)
    behind_sinks = context_len - max(mixer.sink for mixer in windows)
    return widest_window < needle_distance <= behind_sinks


class Span(Frozen):
    """A number from `min` to `max`, both included."""

    min: float = float("-inf")
    max: float = float("inf")


Wanted = bool | float | str | tuple[str, ...] | Span


def meets(value: Any, wanted: Wanted) -> bool:
    """Whether a fact meets a condition: it lies within the span, is one of several values, or
    equals the value. None meets nothing."""
    if value is None:
        return False
    if isinstance(wanted, Span):
        return bool(wanted.min <= value <= wanted.max)
    if isinstance(wanted, tuple):
        return value in wanted
    return bool(value == wanted)

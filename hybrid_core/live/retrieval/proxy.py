"""The proxy: the same design, small enough to train in minutes. No torch.

One rule shrinks every design. It reads the layers that a design resolves to (`ArchSpec.stack`), so
it does not matter which sections or letters described them. Each mixer and each feed-forward
shrinks by its own `shrunk` method, by these factors:

- **Widths** (d_ssm, d_ff, experts, ranks, the widths of branches and of shared blocks) shrink by
  the proxy's d_model over the design's. Attention has fewer heads, of about 16 channels each, in
  the same ratio of query heads to key/value heads.
- **Lengths** (window, sinks, meta tokens, RoPE's theta, the original context length of its scaling)
  shrink by the ratio of the trained length to 8,192, the length that the paper's models are trained
  at. Theta is a wavelength, so it is a number of tokens, too.
- **d_state** shrinks by the square root of that ratio. The state has to hold a context, which
  shrinks, and needles, which do not: a state of 128 at 8,192 tokens becomes one of 32 at 512.
- **The number of layers** drops as described in `depth.py`.
- Position encoding, kinds of mixers, fusion axes, number of experts and top-k do not change.

Parts outside the language model are left out.
"""

import string
from collections.abc import Hashable, Sequence
from typing import TypeVar

from hybrid_core.design.placement import LETTERS
from hybrid_core.design.sections import LayersSection
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer
from hybrid_core.factors import Factors, scaled
from hybrid_core.live.retrieval.depth import fewer_layers
from hybrid_core.mixers.none import NoMixer
from hybrid_core.validation import SpecError

T = TypeVar("T", bound=Hashable)

PAPER_LEN = 8192  # context length, in tokens, that the paper's models are trained at
ABSENT = "-"  # in a pattern: a layer without a mixer, or without a feed-forward
# One-character names that are available both in `mixers` and in `ffns`.
_RESERVED = {*LETTERS, "F"}
_CHARACTERS = string.digits + string.ascii_letters
_FREE_NAMES = [name for name in _CHARACTERS if name not in _RESERVED]


def proxy(
    spec: ArchSpec,
    d_model: int,
    trained_len: int,
    vocab_size: int,
) -> ArchSpec:
    """The proxy of a design, `d_model` wide, for training on contexts of `trained_len` tokens.

    Its layers are listed one by one. Raises SpecError if it has more kinds of layers than a pattern
    can name.
    """
    factors = Factors(d_model / spec.d_model, trained_len / PAPER_LEN)
    small_layers = [_shrunk(layer, factors) for layer in spec.stack]
    stack = fewer_layers(small_layers)
    mixers = [layer.mixer for layer in stack]
    ffns = [layer.ffn for layer in stack]
    mixer_names = _named(mixers, absent=NoMixer())
    ffn_names = _named(ffns, absent=None)
    pattern = "".join(mixer_names[mixer] for mixer in mixers)
    ffn_pattern = "".join(ffn_names[ffn] for ffn in ffns)
    meta_tokens = 0
    if spec.meta_tokens:
        meta_tokens = scaled(spec.meta_tokens, factors.length)
    return ArchSpec.make(
        name=f"{spec.name[:80]} (proxy)",
        vocab_size=vocab_size,
        tie_embeddings=True,
        norm_eps=spec.norm_eps,
        d_model=d_model,
        n_layers=len(stack),
        layers=LayersSection(pattern=pattern, ffns=ffn_pattern),
        mixers=_by_name(mixer_names),
        ffns=_by_name(ffn_names),
        post_norm=spec.post_norm,
        norm=spec.norm,
        meta_tokens=meta_tokens,
        constants=dict(spec.constants),
    )


def _shrunk(layer: Layer, factors: Factors) -> Layer:
    """A layer with its mixer and its feed-forward made smaller."""
    mixer = layer.mixer.shrunk(factors)
    if layer.ffn is None:
        return Layer(mixer, None)
    return Layer(mixer, layer.ffn.shrunk(factors))


def _named(parts: Sequence[T], absent: T) -> dict[T, str]:
    """A one-character name for each distinct part, in order of first use."""
    different = list(dict.fromkeys(parts))
    if absent in different:
        different.remove(absent)
    if len(different) > len(_FREE_NAMES):
        most = len(_FREE_NAMES)
        raise SpecError(
            f"layers: {len(different)} different kinds - a proxy can spell out {most} at most"
        )
    names = dict(zip(different, _FREE_NAMES, strict=False))
    return names | {absent: ABSENT}


def _by_name(names: dict[T, str]) -> dict[str, T]:
    """The parts by name, without the name that means no part."""
    by_name = {name: part for part, name in names.items()}
    del by_name[ABSENT]
    return by_name

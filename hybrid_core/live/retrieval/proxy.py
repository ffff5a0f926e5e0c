"""The proxy: the same design, small enough to train in minutes. One rule for every design, and no
torch.

It is made from the design's layers as they resolve (`ArchSpec.stack`), whatever sections or letters
they were written with.

- **Widths** shrink by d_model / the design's d_model: d_ssm, d_ff, experts, ranks, the widths of
  branches and of shared blocks. Heads
  become fewer, not narrower than HEAD_DIM, in the same ratio of query to key/value heads.
- **Lengths** shrink by trained_len / 8192, the length that the paper's models are trained at:
  window, sinks, meta tokens, RoPE's theta
  (a wavelength, counted in tokens) and the original length of its scaling.
- **State**: d_state shrinks by the square root of that. d_state vectors are what a layer can keep
  of a context, which shrinks, but also of
  a needle, which does not: a state of 128 for 8,192 tokens becomes one of 32 for 512.
- **Layers**: fewer, never fewer than MIN_LAYERS: the smallest depth at which the share of each kind
  of layer stays within
  SHARE_TOLERANCE. Layers of one kind have the same mixer and feed-forward; order and ends are kept.
  A layer that reuses keys and values
  keeps one before it that makes them, and a block that layers share keeps two of them at least.
- Position encoding, kinds of mixers, the axes of fusion, experts and top-k stay as they are. What
  stands outside the language model
  is left out.

How each kind of layer shrinks: `shrunk` of its mixer and of its feed-forward.
"""

import string
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

from hybrid_core.design.placement import LETTERS
from hybrid_core.design.sections import LayersSection
from hybrid_core.design.spec import ArchSpec
from hybrid_core.design.stack import Layer, check_reuse, key_value_heads
from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.none import NoMixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.validation import SpecError

T = TypeVar("T", bound=Hashable)

PAPER_LEN = 8192
MIN_LAYERS = 6
SHARE_TOLERANCE = 0.03
NAMES = [
    name for name in string.digits + string.ascii_letters if name not in (*LETTERS, "F")
]  # free in `mixers` and in `ffns`


def proxy(
    spec: ArchSpec,
    d_model: int,
    trained_len: int,
    vocab_size: int,
) -> ArchSpec:
    """The proxy of `spec`, `d_model` wide, for contexts of `trained_len` tokens; its layers are
    spelled out. Raises SpecError."""
    factors = Factors(d_model / spec.d_model, trained_len / PAPER_LEN)
    layers = thinned([small(layer, factors) for layer in spec.stack])
    mixers = _named([layer.mixer for layer in layers if layer.mixer != NoMixer()])
    ffns = _named([layer.ffn for layer in layers if layer.ffn is not None])
    letters = dict(mixers) | {NoMixer(): "-"}
    feeds = dict(ffns) | {None: "-"}
    pattern = "".join(letters[layer.mixer] for layer in layers)
    feed_letters = "".join(feeds[layer.ffn] for layer in layers)
    layout = LayersSection(pattern=pattern, ffns=feed_letters)
    own_mixers = {name: mixer for mixer, name in mixers.items()}
    own_ffns = {name: ffn for ffn, name in ffns.items()}
    return ArchSpec.make(
        name=f"{spec.name[:80]} (proxy)",
        vocab_size=vocab_size,
        tie_embeddings=True,
        norm_eps=spec.norm_eps,
        d_model=d_model,
        n_layers=len(layers),
        layers=layout,
        mixers=own_mixers,
        ffns=own_ffns,
        post_norm=spec.post_norm,
        norm=spec.norm,
        meta_tokens=scaled(spec.meta_tokens, factors.length) if spec.meta_tokens else 0,
        constants=dict(spec.constants),
    )


def small(layer: Layer, factors: Factors) -> Layer:
    """One layer of the proxy."""
    ffn = None if layer.ffn is None else layer.ffn.shrunk(factors)
    return Layer(layer.mixer.shrunk(factors), ffn)


def _named(parts: Sequence[T]) -> dict[T, str]:
    """A name of one character for each different part."""
    different = list(dict.fromkeys(parts))
    if len(different) > len(NAMES):
        raise SpecError(
            f"layers: {len(different)} different kinds - a proxy can spell out {len(NAMES)} at most"
        )
    return dict(zip(different, NAMES, strict=False))


# ---------------------------------------------------------------- fewer layers


def thinned(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers at the smallest depth at which they are still the same design; all of them where
    there is none."""
    least = max(MIN_LAYERS, len(set(layers)))
    for n_layers in range(least, len(layers)):
        fewer = _letter_by_letter(layers, n_layers)
        if not (_keeps_shares(layers, fewer) and _keeps_sharing(layers, fewer)):
            continue
        ordered = _makers_first(fewer)
        if _reuses_what_is_made(ordered):
            return ordered
    return tuple(layers)


def _keeps_shares(layers: Sequence[Layer], fewer: Sequence[Layer]) -> bool:
    """Whether every kind of layer is still there, with its share of the depth."""
    before, after = Counter(layers), Counter(fewer)
    if set(before) != set(after):
        return False
    return all(
        abs(after[kind] / len(fewer) - n / len(layers)) <= SHARE_TOLERANCE
        for kind, n in before.items()
    )


def _keeps_sharing(layers: Sequence[Layer], fewer: Sequence[Layer]) -> bool:
    """Whether every block of weights that several layers share still has two of them."""
    before, after = _users(layers), _users(fewer)
    return all(after[block] > 1 for block, users in before.items() if users > 1)


def _users(layers: Sequence[Layer]) -> Counter[int]:
    """How many layers there are to each shared block."""
    return Counter(
        layer.mixer.block for layer in layers if isinstance(layer.mixer, SharedBlockMixer)
    )


def _reuses_what_is_made(layers: Sequence[Layer]) -> bool:
    """Whether every layer that reuses keys and values has one before it that makes them."""
    try:
        check_reuse(tuple(layers))
    except ValueError:
        return False
    return True


def _makers_first(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same layers; before one that reuses keys and values which nobody made, the next one that
    makes them is moved."""
    found = list(layers)
    for place in range(len(found)):
        heads = key_value_heads(found[place])
        if heads is None or not heads.reuse_kv:
            continue
        before, layer = found[:place], found[place]
        fitting = (
            i for i in range(place, len(found)) if _reuses_what_is_made([*before, found[i], layer])
        )
        maker = next(fitting, place)
        found.insert(place, found.pop(maker))
    return tuple(found)


def _letter_by_letter(layers: Sequence[Layer], n_layers: int) -> list[Layer]:
    """First the pattern of letters, then the layers of each letter in their order: shared blocks in
    turn, say, keep their distance."""
    letters = thin([layer.letter for layer in layers], n_layers)
    chosen = {}
    for letter in set(letters):
        own = [layer for layer in layers if layer.letter == letter]
        chosen[letter] = iter(thin(own, letters.count(letter)))
    return [next(chosen[letter]) for letter in letters]


def thin(layers: Sequence[T], n_layers: int) -> tuple[T, ...]:
    """`layers` at a smaller depth: each rarer kind keeps its share (one layer at least), spread
    over the places that it had."""
    common, *rare = [kind for kind, _ in Counter(layers).most_common()]
    last = len(layers) - 1
    taken: dict[int, T] = {}
    for kind in reversed(rare):  # the rarest first: its places matter most
        places = [i for i, layer in enumerate(layers) if layer == kind]
        kept = max(1, round(len(places) * n_layers / len(layers)))
        for i in range(kept):
            here = _quantile(places, _share(places, i, kept, last)) / max(1, last) * (n_layers - 1)
            free = [slot for slot in range(n_layers) if slot not in taken]
            if free:
                taken[min(free, key=lambda slot: abs(slot - here))] = kind
    return tuple(taken.get(slot, common) for slot in range(n_layers))


def _share(places: list[int], i: int, n: int, last: int) -> float:
    """How far along `places` the i-th of n stands: evenly, from the very first (last) place only
    where that is an end of the stack, and from half a step inside otherwise. 0 to 1."""
    before = 0.0 if places[0] == 0 else 0.5
    after = 0.0 if places[-1] == last else 0.5
    steps = before + n - 1 + after
    return (before + i) / steps if steps else 0.5


def _quantile(places: list[int], share: float) -> float:
    """The place that `share` of them lie before."""
    at = (len(places) - 1) * share
    low = int(at)
    return places[low] + (at - low) * (places[min(low + 1, len(places) - 1)] - places[low])

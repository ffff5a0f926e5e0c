"""How a proxy gets fewer layers than its design. No torch.

A proxy has the smallest number of layers, at least MIN_LAYERS, that preserves the design. That
means:

- every kind of layer keeps its share of the depth, within SHARE_TOLERANCE; layers are of the same
  kind if they have the same mixer and the same feed-forward,
- kinds stay in order, and kinds at an end of the stack stay there,
- a layer that reuses keys and values still follows a layer that computes them,
- a block of weights that several layers share is still shared.

If no smaller number works, all layers stay.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

from hybrid_core.design.stack import Layer, check_reuse, key_value_heads
from hybrid_core.mixers.shared_block import SharedBlockMixer

T = TypeVar("T", bound=Hashable)
Stack = Sequence[Layer]

MIN_LAYERS = 6
SHARE_TOLERANCE = 0.03


def fewer_layers(stack: Stack) -> tuple[Layer, ...]:
    """The layers of the smallest stack that preserves the design."""
    least = max(MIN_LAYERS, len(set(stack)))
    for n_layers in range(least, len(stack)):
        thinned = _thin_by_letter(stack, n_layers)
        if not _keeps_shares(stack, thinned):
            continue
        if not _keeps_sharing(stack, thinned):
            continue
        ordered = _makers_first(thinned)
        if _reuse_is_valid(ordered):
            return ordered
    return tuple(stack)


# ---------------------------------------------------------------- conditions on the smaller stack


def _keeps_shares(before: Stack, after: Stack) -> bool:
    """Whether every kind of layer is still present, with its share of the depth."""
    counts_before = Counter(before)
    counts_after = Counter(after)
    if set(counts_before) != set(counts_after):
        return False
    for kind, count in counts_before.items():
        share_before = count / len(before)
        share_after = counts_after[kind] / len(after)
        if abs(share_after - share_before) > SHARE_TOLERANCE:
            return False
    return True


def _keeps_sharing(before: Stack, after: Stack) -> bool:
    """Whether every block that several layers shared is still used by at least two."""
    users_after = _users(after)
    for block, users in _users(before).items():
        if users > 1 and users_after[block] < 2:
            return False
    return True


def _users(stack: Stack) -> Counter[int]:
    """How many layers use each shared block."""
    users: Counter[int] = Counter()
    for layer in stack:
        if isinstance(layer.mixer, SharedBlockMixer):
            users[layer.mixer.block] += 1
    return users


def _reuse_is_valid(stack: Stack) -> bool:
    """Whether every layer that reuses keys and values follows a layer that computes them."""
    try:
        check_reuse(tuple(stack))
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------- which layers are kept


def _makers_first(stack: Stack) -> tuple[Layer, ...]:
    """The same layers, reordered so that keys and values are computed before they are reused.

    If a layer reuses keys and values that no earlier layer computes, the next layer that computes
    them is moved in front of it.
    """
    ordered = list(stack)
    for place in range(len(ordered)):
        heads = key_value_heads(ordered[place])
        if heads is None or not heads.reuse_kv:
            continue
        maker = ordered.pop(_place_of_maker(ordered, place))
        ordered.insert(place, maker)
    return tuple(ordered)


def _place_of_maker(stack: list[Layer], place: int) -> int:
    """The first place, from `place` on, of a layer that may come before the layer at `place`.

    This is `place` itself if that layer needs no other, or if there is no such layer.
    """
    before = stack[:place]
    for candidate in range(place, len(stack)):
        with_maker = [*before, stack[candidate], stack[place]]
        if _reuse_is_valid(with_maker):
            return candidate
    return place


def _thin_by_letter(stack: Stack, n_layers: int) -> list[Layer]:
    """`n_layers` of the layers: first thin the pattern of letters, then each letter's layers.

    So layers of the same letter that alternate, such as shared blocks, still alternate.
    """
    letters = [layer.letter for layer in stack]
    pattern = thin(letters, n_layers)
    kept = {}
    for letter in set(pattern):
        same_letter = [layer for layer in stack if layer.letter == letter]
        thinned = thin(same_letter, pattern.count(letter))
        kept[letter] = iter(thinned)
    return [next(kept[letter]) for letter in pattern]


def thin(layers: Sequence[T], n_layers: int) -> tuple[T, ...]:
    """`layers` thinned to a depth of `n_layers`.

    Each kind except the most common keeps its share of the depth and at least one layer, spread
    over its original places. The most common kind fills the rest.
    """
    most_common_first = Counter(layers).most_common()
    common, *rarer = [kind for kind, _ in most_common_first]
    taken: dict[int, T] = {}
    for kind in reversed(rarer):  # the rarest first, because its places matter most
        for place in _new_places(layers, kind, n_layers):
            slot = _nearest_free(place, n_layers, taken)
            if slot is not None:
                taken[slot] = kind
    return tuple(taken.get(slot, common) for slot in range(n_layers))


def _new_places(
    layers: Sequence[T],
    kind: T,
    n_layers: int,
) -> Iterator[float]:
    """Where the layers of a kind belong in a stack of `n_layers`, as fractional places."""
    places = [i for i, layer in enumerate(layers) if layer == kind]
    proportional = len(places) * n_layers / len(layers)
    kept = max(1, round(proportional))
    last = len(layers) - 1
    for number in range(kept):
        share = _spread(places, number, kept, last)
        relative_depth = _quantile(places, share) / max(1, last)
        yield relative_depth * (n_layers - 1)


def _nearest_free(
    place: float,
    n_layers: int,
    taken: dict[int, T],
) -> int | None:
    """The free slot nearest to a place, the earlier one in a tie; None if all are taken."""
    nearest = None
    for slot in range(n_layers):
        if slot in taken:
            continue
        if nearest is None or abs(slot - place) < abs(nearest - place):
            nearest = slot
    return nearest


def _spread(
    places: list[int],
    number: int,
    kept: int,
    last: int,
) -> float:
    """How far along `places` layer `number` of `kept` comes, from 0 to 1.

    The layers are spread evenly. They begin (end) at the first (last) place only if that is an end
    of the stack, and half a step inside otherwise.
    """
    half_step_before = 0.0 if places[0] == 0 else 0.5
    half_step_after = 0.0 if places[-1] == last else 0.5
    steps = half_step_before + kept - 1 + half_step_after
    if not steps:
        return 0.5
    return (half_step_before + number) / steps


def _quantile(places: list[int], share: float) -> float:
    """The quantile of the places, by linear interpolation between neighbours."""
    rank = (len(places) - 1) * share
    lower = int(rank)
    upper = min(lower + 1, len(places) - 1)
    gap = places[upper] - places[lower]
    return places[lower] + (rank - lower) * gap

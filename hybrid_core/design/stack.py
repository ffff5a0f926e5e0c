"""One layer of the stack that a design resolves to. Costs, modules, proxies, figures and exports
read that stack and nothing else."""

from typing import Any, NamedTuple

from hybrid_core.ffns.registry import AnyFfn
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.intra import IntraMixer


class Layer(NamedTuple):
    """One layer as built: its mixer (or NoMixer), and its feed-forward or none."""

    mixer: Mixer
    ffn: AnyFfn | None

    @property
    def letter(self) -> str:
        """The letter of the mixer's kind."""
        return self.mixer.entry.letter


def key_value_heads(layer: Layer) -> AttentionMixer | None:
    """The attention mixer of a layer, which may share keys and values with other layers. None if
    the layer has no attention."""
    mixer = layer.mixer.attention if isinstance(layer.mixer, IntraMixer) else layer.mixer
    return mixer if isinstance(mixer, AttentionMixer) else None


def check_reuse(stack: tuple[Layer, ...]) -> None:
    """Raise ValueError unless each layer that reuses keys and values follows a layer that computes
    them with the same heads and window."""
    computed: tuple[Any, ...] | None = None
    for number, layer in enumerate(stack, start=1):
        heads = key_value_heads(layer)
        if heads is None:
            continue
        own = (
            heads.n_kv_heads,
            heads.head_dim,
            heads.v_head_dim,
            getattr(heads, "window", None),
            getattr(heads, "sink", 0),
        )
        if not heads.reuse_kv:
            computed = own
        elif computed != own:
            reason = "the nearest earlier ones have other heads or another window"
            if computed is None:
                reason = "no earlier layer computes any"
            raise ValueError(
                f"reuse_kv: True - layer {number} needs keys and values of an earlier, similar "
                f"layer, but {reason}"
            )

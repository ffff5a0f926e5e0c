"""Fields of a config that follow from the design as a whole, which families share. Those of one
part are in table.py."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.stack_parts import first_attention, first_of, ssm_parts
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer

Config = dict[str, Any]


class Written(NamedTuple):
    """How a design becomes a config of a family, beside the family's tables.

    `architecture`: the class of transformers. `more`: fields that follow from the design as a
    whole. `implied`: constants that the class has by itself."""

    architecture: str
    more: tuple[Callable[[ArchSpec], Config], ...] = ()
    implied: tuple[str, ...] = ()


HYBRID_NAMES = {
    "A": "attention",
    "M": "mamba",
    "m": "mamba",
    "Z": "hybrid",
}


def layer_names(field: str, **names: str) -> Callable[[ArchSpec], Config]:
    """A list of one name per layer, by its letter."""

    def write(spec: ArchSpec) -> Config:
        return {field: [names.get(layer.letter, layer.letter) for layer in spec.stack]}

    return write


def rope(spec: ArchSpec) -> Config:
    """RoPE as configs had it before transformers 5: theta, and how it is scaled."""
    mixer = first_attention(spec)
    if mixer is None or mixer.position != "rope":
        return {}
    found: Config = {"rope_theta": mixer.rope_theta}
    scaling = mixer.rope_scaling
    if scaling:
        found["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_len,
        }
    return found


def partial_rope(spec: ArchSpec) -> Config:
    """RoPE for classes that turn only a part of the head by default."""
    mixer = first_attention(spec)
    if mixer is None or mixer.position != "rope":
        return {}
    parameters = rope(spec)
    scaling = parameters.pop("rope_scaling", {"rope_type": "default"})
    parameters["partial_rotary_factor"] = mixer.rope_fraction
    return {"rope_parameters": parameters | scaling}


def spare_heads(spec: ArchSpec) -> Config:
    """Heads for a class that asks for them even where no layer attends."""
    if first_attention(spec):
        return {}
    n_heads = max(1, spec.d_model // 64)
    while spec.d_model % n_heads:
        n_heads -= 1
    return {
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_heads,
    }


def expand(key: str = "mamba_expand") -> Callable[[ArchSpec], Config]:
    """d_ssm as a whole multiple of d_model; nothing where the design has no Mamba layer."""

    def write(spec: ArchSpec) -> Config:
        for part in ssm_parts(spec):
            if isinstance(part, Mamba1Mixer | Mamba2Mixer):
                return {key: part.d_ssm // spec.d_model}
        return {}

    return write


def dt_limit(spec: ArchSpec) -> Config:
    """The smallest dt, where a design sets one; infinity as transformers 5 writes it."""
    for part in ssm_parts(spec):
        if isinstance(part, Mamba2Mixer):
            limit = [part.dt_min, {"__float__": "Infinity"}]
            return {"time_step_limit": limit} if part.dt_min else {}
    return {}


def window(spec: ArchSpec) -> Config:
    """The window of the windowed layers; null where there are none."""
    swa = first_of(spec, SwaMixer)
    return {"sliding_window": swa.window if swa else None}

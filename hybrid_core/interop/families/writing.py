"""Writers shared by families, for fields that depend on the whole design. Fields of a single part
are in a table (table.py)."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.stack_parts import first_attention, first_of, ssm_parts
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.swa import SwaMixer

Config = dict[str, Any]


class Written(NamedTuple):
    """What a family's config needs in addition to the fields in its tables.

    `architecture`: the class in transformers. `more`: writers of fields that depend on the whole
    design. `implied`: constants that the class sets itself, so no field holds them."""

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
    """A field that lists one name per layer. `names`: a layer's letter -> its name."""

    def write(spec: ArchSpec) -> Config:
        return {field: [names.get(letter, letter) for letter in spec.pattern]}

    return write


def rope(spec: ArchSpec) -> Config:
    """RoPE as in configs before transformers 5: `rope_theta` and `rope_scaling`."""
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
    """RoPE for classes that by default rotate only part of the head."""
    mixer = first_attention(spec)
    if mixer is None or mixer.position != "rope":
        return {}
    parameters = rope(spec)
    scaling = parameters.pop("rope_scaling", {"rope_type": "default"})
    parameters["partial_rotary_factor"] = mixer.rope_fraction
    return {"rope_parameters": parameters | scaling}


def spare_heads(spec: ArchSpec) -> Config:
    """Heads for a class that needs them even if the design has no attention layer."""
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
    """d_ssm as a multiple of d_model. Nothing if the design has no Mamba layer."""

    def write(spec: ArchSpec) -> Config:
        for part in ssm_parts(spec):
            if isinstance(part, Mamba1Mixer | Mamba2Mixer):
                return {key: part.d_ssm // spec.d_model}
        return {}

    return write


def dt_limit(spec: ArchSpec) -> Config:
    """The smallest dt, if the design sets one. Infinity is written as in transformers 5."""
    for part in ssm_parts(spec):
        if isinstance(part, Mamba2Mixer):
            limit = [part.dt_min, {"__float__": "Infinity"}]
            return {"time_step_limit": limit} if part.dt_min else {}
    return {}


def window(spec: ArchSpec) -> Config:
    """The window. Null if the design has no windowed layer."""
    swa = first_of(spec, SwaMixer)
    return {"sliding_window": swa.window if swa else None}

"""What a family of published configs is: how it is read, written, and what its tensors are
called."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields


class Family(NamedTuple):
    """One family of published models.

    `name`: the config's model_type. `read`: the fields of a config -> the mapping of our design; it
    takes every field that the family's class computes with. `defaults`: what the class has for a
    field that the config does not hold (transformers 5.23, configuration_*.py). transformers saves
    only what differs from these, so a config may lack any of them; a field that is there and null
    is another matter, which `read` decides. Families without a class in transformers have none.
    `written`: how a design becomes a config of the family, or None where that is not written here.
    `tensors`: where a checkpoint keeps each tensor, or None where weights do not convert.
    `marks`: for configs of other code than transformers', which have no model_type: fields that
    only they have. `fused_experts`: whether the class keeps all experts of a layer in one
    parameter, which is no linear layer (transformers 4 and 5)."""

    name: str
    read: Callable[[Fields], dict[str, Any]]
    defaults: Mapping[str, Any] = {}
    written: Written | None = None
    tensors: Tensors | None = None
    marks: tuple[str, ...] = ()
    fused_experts: bool = False

"""A family of published configs: how its configs are read and written, and its tensor names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hybrid_core.interop.families.table import Tables
from hybrid_core.interop.families.tensors import Tensors
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields


class Family(NamedTuple):
    """One family of published models.

    `name`: the config's model_type.
    `read`: the fields of a config -> the mapping of our design. It takes every field that the
    family's class computes with.
    `tables`: the config's keys for the attributes of each part. They read the config, write it, and
    put its keys into error messages.
    `defaults`: the class's values for fields that a config does not have (transformers 5.23,
    configuration_*.py). transformers saves only what differs from these, so any of them may be
    absent. `read` decides what a null field means.
    `written`: what else a config of the family needs, or None if the family is not exported.
    `tensors`: where a checkpoint keeps each tensor, or None if weights do not convert.
    `marks`: fields that only this config has, if it has no model_type (code other than
    transformers).
    `fused_experts`: whether the class keeps all experts of a layer in one parameter, which is not a
    linear layer (transformers 4 and 5)."""

    name: str
    read: Callable[[Fields], dict[str, Any]]
    tables: Tables
    defaults: Mapping[str, Any] = {}
    written: Written | None = None
    tensors: Tensors | None = None
    marks: tuple[str, ...] = ()
    fused_experts: bool = False

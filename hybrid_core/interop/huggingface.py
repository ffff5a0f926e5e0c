"""Hugging Face configs, in and out, without torch: a config.json becomes a design (ArchSpec), and a
design becomes a config.json.

In: a family's reader (families/) takes every field that changes what the class computes. The class
is that of transformers (5.23), or the model's published code if transformers has none. Any other
field must be known to change nothing, or it is rejected by name. Otherwise an overlooked field
would give a model that is almost right. Fields that change values but no cost are kept as
`constants`; design/built.py says whether our modules compute such a design.

Out: a design is written as the first family whose config reads back as the same model. So no
export silently drops a part of the design."""

import json
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import MAX_BYTES, decoded, read_file, too_long
from hybrid_core.interop.config_keys import with_config_keys
from hybrid_core.interop.families.base import Family
from hybrid_core.interop.families.registry import FAMILIES, NATIVE, WRITTEN
from hybrid_core.interop.families.table import Tables
from hybrid_core.interop.families.writing import Written
from hybrid_core.interop.fields import Fields
from hybrid_core.interop.quantization import stored
from hybrid_core.interop.roundtrip import ExportError, first_difference
from hybrid_core.interop.stack_parts import first_of, kinds
from hybrid_core.validation import SpecError, nearest, short
from hybrid_core.yaml_io import MAX_DEPTH

# The fields for the dtype in which an engine stores Mamba states, and their values.
STATE_DTYPE_KEYS = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
STATE_DTYPES = {
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
}


# ---------------------------------------------------------------- in


def spec_from_config(config: Mapping[str, Any], name: str | None = None) -> ArchSpec:
    """The design of a config.json. `name`: the design's name; None uses the family's name. Raises
    SpecError with one line."""
    fields = Fields(config)
    state_dtype = _state_dtype(fields)
    quantised = _quantised(fields)
    family = _family(fields)
    design = _design(family, fields)
    design["name"] = name or family.name
    if state_dtype:
        design["state_dtype"] = state_dtype
    try:
        spec = ArchSpec.from_mapping(design)
    except SpecError as error:
        line = with_config_keys(str(error), design, config, family.tables)
        raise SpecError(line) from None
    if not quantised:
        return spec
    rules = stored.stored_weights(quantised, spec, family.name)
    return spec.replace(quantization=rules)


def _design(family: Family, fields: Fields) -> dict[str, Any]:
    """The design as a mapping, as the family's reader builds it from the fields."""
    fields.absent = family.defaults
    try:
        design = family.read(fields)
    except OverflowError:
        raise SpecError(f"{family.name}: a number is too large") from None
    fields.close()
    if fields.constants:
        design["constants"] = fields.constants
    kept = {key: value for key, value in design.items() if value is not None}
    return {"schema": 1} | kept


def _state_dtype(fields: Fields) -> str | None:
    """The dtype of the states. None if the config leaves it to the model's dtype."""
    found = None
    for key in STATE_DTYPE_KEYS:
        value = fields.take(key, None)
        if value in (None, "auto"):
            continue
        name = value.removeprefix("torch.") if isinstance(value, str) else ""
        if name not in STATE_DTYPES:
            raise fields.refuse(key, f"must be {' or '.join(STATE_DTYPES)}")
        found = found or STATE_DTYPES[name]
    return found


def _quantised(fields: Fields) -> Any:
    """The config's quantisation scheme, or None if the weights are not quantised."""
    found = None
    for key in stored.KEYS:
        given = fields.take(key, None)
        found = found or given
    return found


def _family(fields: Fields) -> Family:
    if "model_type" not in fields:
        for family in NATIVE.values():
            if all(key in fields for key in family.marks):
                return family
    name = fields.take("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise fields.refuse("model_type", f"must be {nearest(name, FAMILIES)}")
    return FAMILIES[name]


# ---------------------------------------------------------------- the file


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a config.json. Raises SpecError with one line if the file is missing, too
    large, or not the JSON of a config."""
    return parse_config(read_file(path, "config"))


def parse_config(text: str | bytes) -> dict[str, Any]:
    """The fields of a config from its text. Raises SpecError with one line."""
    if len(text) > MAX_BYTES:
        raise SpecError(too_long(len(text), "config"))
    data = _json(decoded(text) if isinstance(text, bytes) else text)
    if not isinstance(data, dict):
        raise SpecError(f"{short(data)} - a config is a mapping of fields to values")
    if _depth(data) > MAX_DEPTH:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels")
    return data


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON - line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise SpecError("not JSON - a number has thousands of digits") from None


def _depth(value: Any) -> int:
    """Levels of nesting, counted without recursion because a file may nest deeper than Python's
    stack."""
    level = [value]
    depth = 0
    while level:
        depth += 1
        below: list[Any] = []
        for held in level:
            if isinstance(held, dict):
                below += held.values()
            elif isinstance(held, list):
                below += held
        level = below
    return depth


# ---------------------------------------------------------------- out

# transformers' names of activations.
ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu2": "relu2",
}
# transformers has more classes than this exporter writes, so an error must not refer to all of
# them.
NONE_WRITTEN = f"none of the {len(WRITTEN)} transformers classes that can be exported"
# Constants that do not come from a field: the family's reader sets them.
IMPLIED = ("norm_offset", "gated_norm_eps")


def hf_config(spec: ArchSpec) -> dict[str, Any]:
    """A config.json of this design, which AutoConfig loads. Raises ExportError with the first
    difference that the closest class cannot express."""
    used = kinds(spec)
    differences: dict[str, str] = {}
    refusals: dict[str, str] = {}
    for name, written in WRITTEN.items():
        tables = FAMILIES[name].tables
        if not set(used) <= set(tables):
            continue
        config = _config(spec, name, written, tables)
        try:
            difference = first_difference(spec, spec_from_config(config, spec.name))
        except SpecError as error:
            refusals[name] = str(error)
            continue
        if difference is None:
            return config
        differences[name] = difference
    reasons = differences or refusals
    if not reasons:
        raise ExportError(f"hf: {', '.join(used.values())} - {NONE_WRITTEN} has these together")
    closest = _closest(reasons)
    raise ExportError(f"hf: {reasons[closest]} - {NONE_WRITTEN} has this; {closest} is closest")


def _closest(reasons: Mapping[str, str]) -> str:
    """The first family that can express layer 1 of the design, or else the first family."""
    for name, reason in reasons.items():
        if not reason.startswith("layer 1:"):
            return name
    return next(iter(reasons))


def _config(
    spec: ArchSpec,
    name: str,
    written: Written,
    tables: Tables,
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": [written.architecture],
        "model_type": name,
    }
    for kind, table in tables.items():
        part = spec if kind is ArchSpec else first_of(spec, kind)
        if part is None:
            continue
        for field in table.fields.values():
            config[field.key] = _value(part, field.ours)
    for more in written.more:
        config |= more(spec)
    implied = {*IMPLIED, *written.implied}
    config |= {key: value for key, value in spec.constants.items() if key not in implied}
    if spec.state_dtype:
        config[STATE_DTYPE_KEYS[0]] = _torch_dtype(spec.state_dtype)
    return {key: value for key, value in config.items() if value is not None}


def _value(part: Any, path: str) -> Any:
    """An attribute by its dotted path. None if this part does not have it."""
    try:
        value = attrgetter(path)(part)
    except AttributeError:
        return None
    return ACTIVATIONS.get(value, value) if isinstance(value, str) else value


def _torch_dtype(ours: str) -> str:
    return next(theirs for theirs, name in STATE_DTYPES.items() if name == ours)

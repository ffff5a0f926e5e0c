"""Published configs in: a config.json becomes an ArchSpec, without torch. The tensors that belong
to it: weights.py.

A family is one function (families/), found by the config's own fields, never by the model's name.
It takes every field that changes what transformers (5.23), or the published code of a model that
transformers has no class for, computes for that family, with the default that it has there;
whatever is left must be known to change nothing. So a field that nobody thought of is refused by
name instead of giving a model that is almost right. Fields that change values but no cost are kept
as `constants`; built.py says whether our modules compute such a design or only its costs are known.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import MAX_BYTES, decoded, read_file, too_long
from hybrid_core.interop import quantization
from hybrid_core.interop.families import hybrid, recurrent, ssm, transformer
from hybrid_core.interop.families.defaults import CLASS_DEFAULTS
from hybrid_core.interop.fields import Fields
from hybrid_core.validation import SpecError, nearest, short
from hybrid_core.yaml_io import MAX_DEPTH

FAMILIES: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "llama": transformer.llama,
    "mistral": transformer.mistral,
    "gemma3_text": transformer.gemma3,
    "gpt_oss": transformer.gpt_oss,
    "qwen2_vl": transformer.qwen2_vl,
    "mamba": ssm.mamba,
    "falcon_mamba": ssm.falcon_mamba,
    "mamba2": ssm.mamba2,
    "bamba": hybrid.bamba,
    "jamba": hybrid.jamba,
    "zamba": hybrid.zamba,
    "zamba2": hybrid.zamba2,
    "falcon_h1": hybrid.falcon_h1,
    "nemotron_h": hybrid.nemotron_h,
    "granitemoehybrid": hybrid.granite,
    "hymba": hybrid.hymba,
    "phi4flash": hybrid.phi4flash,
    "qwen3_next": recurrent.qwen3_next,
    "kimi_linear": recurrent.kimi_linear,
    "lfm2": recurrent.lfm2,
    "recurrent_gemma": recurrent.recurrent_gemma,
}

# Configs of other code than transformers', told by fields that only they have.
NATIVE: dict[str, tuple[tuple[str, ...], Callable[[Fields], dict[str, Any]]]] = {
    "mamba_ssm": (("d_model", "n_layer", "ssm_cfg"), ssm.mamba_ssm),
    "samba": (("n_embd", "mb_per_layer", "local_window"), hybrid.samba),
}


def spec_from_config(config: Mapping[str, Any], name: str | None = None) -> ArchSpec:
    """The design of a config.json, called `name`, or else by its family. Raises SpecError with one
    line."""
    fields = Fields(config)
    state_dtype, quantised = _state_dtype(fields), _quantised(fields)
    family, read = _family(fields)
    fields.absent = CLASS_DEFAULTS.get(family, {})
    try:
        design = read(fields)
    except OverflowError:
        raise SpecError(f"{family}: a number is too large") from None
    fields.close()
    if fields.constants:
        design["constants"] = fields.constants
    design |= {
        "schema": 1,
        "name": name or family,
        "state_dtype": state_dtype or design.get("state_dtype"),
    }
    spec = ArchSpec.from_mapping({key: value for key, value in design.items() if value is not None})
    return (
        spec.replace(quantization=quantization.stored_weights(quantised, spec, family))
        if quantised
        else spec
    )


# What configs call the dtype that an engine keeps the scans' states in, and the dtypes that they
# name.
STATE_DTYPE_KEYS = ("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def _state_dtype(fields: Fields) -> str | None:
    """The dtype of the states that the config asks for; None where it leaves it to the model's."""
    found = None
    for key in STATE_DTYPE_KEYS:
        value = fields.take(key, None)
        if value in (None, "auto"):
            continue
        name = value.removeprefix("torch.") if isinstance(value, str) else value
        if name not in DTYPES:
            raise fields.refuse(key, f"must be {' or '.join(DTYPES)}")
        found = found or DTYPES[name]
    return found


def _quantised(fields: Fields) -> Any:
    """How the weights are stored, where the config says it."""
    given = [fields.take(key, None) for key in quantization.KEYS]
    return next((value for value in given if value), None)


def _family(fields: Fields) -> tuple[str, Callable[[Fields], dict[str, Any]]]:
    if "model_type" not in fields:
        for family, (keys, read) in NATIVE.items():
            if all(key in fields for key in keys):
                return family, read
    family = fields.take("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise fields.refuse("model_type", f"must be {nearest(family, FAMILIES)}")
    return family, FAMILIES[family]


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a config.json. Raises SpecError with one line where it is missing, too large,
    no JSON or no config."""
    return parse_config(read_file(path, "config"))


def parse_config(text: str | bytes) -> dict[str, Any]:
    """The fields of a config as text. Raises SpecError with one line."""
    if len(text) > MAX_BYTES:
        raise SpecError(too_long(len(text), "config"))
    try:
        data = json.loads(decoded(text) if isinstance(text, bytes) else text)
    except SpecError:
        raise
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON - line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise SpecError("not JSON - a number has thousands of digits") from None
    if not isinstance(data, dict):
        raise SpecError(f"{short(data)} - a config is a mapping of fields to values")
    if _depth(data) > MAX_DEPTH:
        raise SpecError(f"nested deeper than {MAX_DEPTH} levels")
    return data


def _depth(value: Any) -> int:
    """Levels of nesting, counted without recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            item
            for held in level
            for item in (
                held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
            )
        ]
    return depth

"""Every family against transformers: parameters on the meta device, and what absent and null fields
mean."""

import dataclasses
import json
import random
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hybrid_core.costs.model import model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.families.registry import FAMILIES
from hybrid_core.interop.huggingface import read_config, spec_from_config
from hybrid_core.validation import SpecError
from tests.interop.unseen import UNSEEN, config_of, family_of

CONFIGS = PROFILES / "models" / "configs"


def class_of(family: str) -> Any:
    """transformers' class of a family's config."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[family]


def built(family: str, **fields: Any) -> Any:
    """transformers' model of a config, without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(class_of(family)(**fields))


def n_params(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def saved(model: Any) -> dict[str, Any]:
    """The config as transformers saves it."""
    fields: dict[str, Any] = json.loads(model.config.to_json_string())
    return fields


@pytest.mark.parametrize("name", UNSEEN)
def test_parameters_are_those_of_transformers_on_the_meta_device(name: str) -> None:
    """From the config as it is written by hand, and as transformers saves it."""
    model = built(family_of(name), **UNSEEN[name])
    for config in (config_of(name), saved(model)):
        spec = spec_from_config(config)
        assert model_costs(spec).params().total == n_params(model)


# Fields that the families may have, and values that fit all of them.
_VARIED: list[tuple[str, tuple[Any, ...]]] = [
    ("hidden_size", (64, 96, 128)),
    ("vocab_size", (64, 101)),
    ("intermediate_size moe_intermediate_size shared_intermediate_size", (32, 52, 88)),
    ("state_size mamba_d_state ssm_state_size", (4, 12, 16)),
    ("conv_kernel mamba_d_conv conv1d_width linear_conv_kernel_dim conv_L_cache", (2, 3, 4)),
    ("num_experts num_local_experts n_routed_experts", (4, 6)),
    ("num_experts_per_tok num_key_value_heads", (1, 2, 4)),
    (
        "attention_bias mlp_bias use_bias use_conv_bias mamba_conv_bias mamba_proj_bias conv_bias",
        (True, False),
    ),
    ("tie_word_embeddings use_shared_attention_adapter mamba_rms_norm", (True, False)),
]
VARIED = {key: values for keys, values in _VARIED for key in keys.split()}


@pytest.mark.parametrize("name", UNSEEN)
def test_so_are_those_of_configs_drawn_at_random(name: str) -> None:
    """Half of the fields of VARIED that the family has get another value. A config that either side
    refuses is drawn again. One that both accept has the same parameters."""
    family = family_of(name)
    rng = random.Random(name)
    known = set(UNSEEN[name]) | set(json.loads(class_of(family)().to_json_string()))
    agreed = 0
    for _ in range(12):
        changed = {}
        for key, values in VARIED.items():
            if key in known and rng.random() < 0.5:
                changed[key] = rng.choice(values)
        try:
            spec = spec_from_config(config_of(name) | changed)
        except SpecError:
            continue
        try:
            model = built(family, **UNSEEN[name] | changed)
        except Exception:  # theirs are of many types
            continue
        assert model_costs(spec).params().total == n_params(model), changed
        agreed += 1
        if agreed == 3:
            return
    assert agreed, "no config that both sides take"


def test_every_family_that_transformers_has_is_among_them() -> None:
    # no class in transformers: the reference table and a count by hand (test_models.py)
    by_hand = {"hymba", "phi4flash", "qwen2_vl"}
    assert set(map(family_of, UNSEEN)) == set(FAMILIES) - by_hand


# ---------------------------------------------------------------- fields that are absent or null

CLASS_DEFAULTS = {name: family.defaults for name, family in FAMILIES.items() if family.defaults}


@pytest.mark.parametrize("family", CLASS_DEFAULTS)
def test_the_defaults_written_down_are_those_of_the_class(family: str) -> None:
    theirs = {}
    for field in dataclasses.fields(class_of(family)):
        theirs[field.name] = field.default
    for key, value in CLASS_DEFAULTS[family].items():
        assert theirs[key] == value, key


# Rules between fields that our reader checks and a class on the meta device does not. Such a model
# fails when it runs, or does not have its num_hidden_layers.
ACROSS = (
    "must be divisible by",
    "must be even",
    "must be num_attention_heads",
    "without it the class has",
    "must be False if layers have experts",
)


def without(fields: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}


def changed_configs(
    config: dict[str, Any], known: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config without each of its fields, and with each field that it or its class has set to
    null."""
    for key in without(config, "model_type"):
        yield f"{key} absent", without(config, key)
    for key in without(config | known, "model_type"):
        yield f"{key} null", config | {key: None}


def ours(config: dict[str, Any]) -> ArchSpec | None:
    """Our design, or None for a config that breaks a rule between fields. Any other refusal is an
    error of ours, because transformers accepts the config."""
    try:
        return spec_from_config(config, "x")
    except SpecError as error:
        assert any(rule in str(error) for rule in ACROSS), str(error)
        return None


def comparable(spec: ArchSpec) -> tuple[ArchSpec, dict[str, Any]]:
    """A design without its constants, and the constants. Those of RoPE's scaling and of the
    quantisation are left out, because transformers adds fields to them."""
    constants = without(spec.constants, "rope_scaling", "quantization_config")
    return spec.replace(constants={}), constants


def compare_with_transformers(config: dict[str, Any]) -> int:
    """Compare every changed config: parameters with the model on the meta device, all else with the
    config that the class completes. Returns how many were compared. Configs that transformers
    itself cannot build are skipped."""
    family = config["model_type"]
    known = json.loads(class_of(family)().to_json_string())
    given = without(config, "auto_map", "quantization_config")
    compared = 0
    for change, changed in changed_configs(given, known):
        fields = without(changed, "model_type", "auto_map", "quantization_config")
        try:
            model = built(family, **fields)
        except Exception:  # theirs are of many types
            continue
        spec = ours(changed)
        if spec is None:
            continue
        assert model_costs(spec).params().total == n_params(model), change
        mine, constants = comparable(spec)
        theirs, their_constants = comparable(spec_from_config(saved(model), "x"))
        assert mine.same_model(theirs), change
        assert constants == their_constants, change
        compared += 1
    return compared


@pytest.mark.parametrize("name", UNSEEN)
def test_a_field_that_is_absent_or_null_means_what_it_does_in_transformers(name: str) -> None:
    assert compare_with_transformers(config_of(name)) > 8


PUBLISHED = {path.stem: read_config(path) for path in sorted(CONFIGS.glob("*.json"))}
IN_TRANSFORMERS = [
    name for name, config in PUBLISHED.items() if config.get("model_type") in CLASS_DEFAULTS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_so_it_does_in_every_published_config(name: str) -> None:
    assert compare_with_transformers(PUBLISHED[name]) > 8


# family, fields, absent -> an attribute of the design by its path, and the value of transformers
# 5.23's class.
ABSENT: list[tuple[str, dict[str, Any], str, Any]] = [
    ("gpt_oss", {"num_attention_heads": 64}, "attention.head_dim", 64),
    ("gpt_oss", {"num_attention_heads": 64}, "attention.n_kv_heads", 8),
    ("gpt_oss", {"num_attention_heads": 64}, "attention.rope_theta", 150_000.0),
    ("qwen3_next", {}, "attention.head_dim", 256),
    (
        "zamba",
        {"hidden_size": 256, "num_attention_heads": 16},
        "stack.2.mixer.attention.n_kv_heads",
        16,
    ),
    ("recurrent_gemma", {}, "ffn.d_ff", 7680 // 2),
    ("bamba", {"mamba_conv_bias": None}, "ssm.conv_bias", False),
    ("falcon_h1", {"mamba_conv_bias": None}, "ssm.conv_bias", False),
    ("granitemoehybrid", {"mamba_conv_bias": None}, "ssm.conv_bias", False),
]


@pytest.mark.parametrize(
    ("family", "fields", "path", "value"),
    ABSENT,
    ids=[f"{family}-{path}" for family, _, path, _ in ABSENT],
)
def test_what_an_absent_field_means_by_family(
    family: str, fields: dict[str, Any], path: str, value: Any
) -> None:
    found: Any = spec_from_config({"model_type": family} | fields)
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value

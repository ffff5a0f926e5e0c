"""Against independent implementations: transformers' models with the same weights, and mamba-ssm's
references."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hybrid_core.interop.families.registry import TENSORS
from hybrid_core.interop.huggingface import hf_config, spec_from_config
from hybrid_core.live.modules.generate import generate
from hybrid_core.live.modules.mamba2 import Mamba2
from hybrid_core.live.modules.model import build
from hybrid_core.live.weights import (
    WeightsError,
    from_transformers,
    load_folder,
    save_folder,
)
from hybrid_core.validation import SpecError
from kernels.selective_scan import reference as scan_reference
from kernels.selective_scan import selective_scan, selective_scan_step
from kernels.ssd import reference as ssd_reference
from kernels.ssd import ssd, ssd_step
from tests.conftest import assert_close
from tests.designs import TINY_HYMBA, design

TINY = {"vocab_size": 97, "hidden_size": 64, "tie_word_embeddings": False}
DECODER = TINY | {
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MAMBA2 = {
    "state_size": 16,
    "num_hidden_layers": 2,
    "head_dim": 16,
    "num_heads": 8,
    "n_groups": 2,
    "chunk_size": 8,
}
BAMBA = {
    "num_hidden_layers": 3,
    "attn_layer_indices": [1],
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
}

MAMBA1 = {"mamba_d_state": 8, "mamba_dt_rank": 5, "pad_token_id": 0}
JAMBA = MAMBA1 | {
    "num_hidden_layers": 4,
    "attn_layer_period": 4,
    "attn_layer_offset": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
FALCON_H1 = {
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_chunk_size": 8,
}
FALCON_H1 |= {
    "mlp_multipliers": [0.7, 1.4],
    "ssm_multipliers": [0.5, 1.2, 0.8, 1.5, 0.6],
    "key_multiplier": 0.6,
    "lm_head_multiplier": 0.8,
}
FALCON_H1 |= {
    "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.9,
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.7,
}
NEMOTRON = {
    "ssm_state_size": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "chunk_size": 8,
    "head_dim": 24,
    "pad_token_id": 0,
}
GRANITE = {
    "num_hidden_layers": 3,
    "layer_types": ["mamba", "attention", "mamba"],
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
}
GRANITE |= {
    "mamba_chunk_size": 8,
    "mamba_d_head": "auto",
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "logits_scaling": 0.4,
}
GRANITE |= {"attention_multiplier": 0.4, "shared_intermediate_size": 48, "pad_token_id": 0}

ZAMBA = {
    "tie_word_embeddings": True,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "num_hidden_layers": 3,
}
ZAMBA |= {"layers_block_type": ["hybrid", "mamba", "hybrid"]}
ZAMBA2 = ZAMBA | {
    "n_mamba_heads": 8,
    "mamba_d_state": 16,
    "mamba_ngroups": 2,
    "chunk_size": 8,
    "adapter_rank": 6,
    "num_mem_blocks": 2,
}

# Epsilons far from the default, so that one that is not passed on shows.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": DECODER | {"model_type": "llama", "rms_norm_eps": 1e-2},
    "llama-3": DECODER
    | {
        "model_type": "llama",
        "head_dim": 24,
        "tie_word_embeddings": True,
        "rope_scaling": LLAMA3,
        "rope_theta": 5e5,
    },
    "qwen3": DECODER | {"model_type": "qwen3", "head_dim": 24, "attention_bias": True},
    "mistral": DECODER | {"model_type": "mistral", "sliding_window": 5},
    "mistral-unwindowed": DECODER | {"model_type": "mistral", "sliding_window": None},
    "mamba": TINY
    | {"model_type": "mamba", "state_size": 8, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-2},
    "mamba-wide": TINY
    | {
        "model_type": "mamba",
        "num_hidden_layers": 2,
        "expand": 3,
        "time_step_rank": 5,
        "conv_kernel": 3,
    },
    "mamba2": TINY | MAMBA2 | {"model_type": "mamba2", "layer_norm_epsilon": 1e-2},
    "falcon_mamba": TINY
    | {
        "model_type": "falcon_mamba",
        "state_size": 8,
        "num_hidden_layers": 2,
        "mixer_rms_eps": 1e-2,
        "pad_token_id": 0,
    },
    "jamba": DECODER | JAMBA | {"model_type": "jamba", "rms_norm_eps": 1e-2},
    "jamba-dense": DECODER
    | JAMBA
    | {"model_type": "jamba", "num_experts": 1, "mamba_proj_bias": True},
    "falcon_h1": DECODER
    | FALCON_H1
    | {"model_type": "falcon_h1", "embedding_multiplier": 2.0, "pad_token_id": 0},
    "falcon_h1-norm": DECODER
    | FALCON_H1
    | {
        "model_type": "falcon_h1",
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": False,
        "attention_bias": True,
        "pad_token_id": 0,
    },
    "falcon_h1-norm-first": DECODER
    | FALCON_H1
    | {
        "model_type": "falcon_h1",
        "mamba_rms_norm": True,
        "mamba_proj_bias": True,
        "projectors_bias": True,
        "pad_token_id": 0,
    },
    "nemotron_h": DECODER
    | NEMOTRON
    | {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M-*M-",
        "num_hidden_layers": 5,
        "use_bias": True,
    },
    "nemotron_h-experts": DECODER
    | NEMOTRON
    | {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "ME*-",
        "num_hidden_layers": 4,
        "n_routed_experts": 4,
    }
    | {
        "moe_intermediate_size": 20,
        "moe_shared_expert_intermediate_size": 28,
        "moe_latent_size": 48,
        "routed_scaling_factor": 1.5,
    },
    "granitemoehybrid": DECODER
    | GRANITE
    | {"model_type": "granitemoehybrid", "num_local_experts": 4, "tie_word_embeddings": True},
    "granitemoehybrid-dense": DECODER
    | GRANITE
    | {
        "model_type": "granitemoehybrid",
        "num_local_experts": 0,
        "position_embedding_type": "rope",
        "attention_bias": True,
    },
    "zamba": DECODER
    | MAMBA1
    | ZAMBA
    | {"model_type": "zamba", "n_mamba_heads": 2, "rms_norm_eps": 1e-2},
    "zamba2": DECODER
    | ZAMBA2
    | {"model_type": "zamba2", "use_mem_rope": True, "num_mem_blocks": 1},
    "zamba2-adapters": DECODER
    | ZAMBA2
    | {"model_type": "zamba2", "use_shared_attention_adapter": True},
    "bamba": DECODER | BAMBA | {"model_type": "bamba", "mamba_chunk_size": 8, "rms_norm_eps": 1e-2},
}
LENGTHS = (1, 3, 37)  # none but 1 divides the chunk (8) or the window (5)
TOLERANCE = 1e-4


def without_floor(model: PreTrainedModel) -> PreTrainedModel:
    """transformers 5.23 clamps dt by `time_step_min` in these two families; the published code does
    not (transformers#48989)."""
    if model.config.model_type in ("nemotron_h", "zamba2"):
        for module in model.modules():
            if hasattr(module, "time_step_limit"):
                module.time_step_limit = (0.0, float("inf"))
    return model


def theirs(name: str) -> PreTrainedModel:
    """A tiny model of transformers in which no parameter is constant: some of its inits are zeros
    and ones."""
    fields = dict(CONFIGS[name])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[fields.pop("model_type")](**fields)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn_like(parameter), alpha=0.18 if name.startswith("zamba") else 0.2
            )  # their float32 is the limit
    model.generation_config.eos_token_id = None  # generate all that is asked for
    return without_floor(model)


def saved(model: PreTrainedModel) -> dict[str, Any]:
    """Its config as it stands in config.json."""
    config: dict[str, Any] = json.loads(model.config.to_json_string())
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str) -> None:
    model = theirs(name)
    ours = from_transformers(saved(model), model.state_dict())
    for length in LENGTHS:
        tokens = torch.randint(97, (2, length), generator=torch.Generator().manual_seed(length))
        with torch.inference_mode():
            expected = model(tokens).logits
            assert expected.std() > 1  # so that the tolerance says something
            assert (ours(tokens) - expected).abs().max() < TOLERANCE, length
    continued = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(generate(ours, tokens, 64), continued[:, length:])
    assert len(continued[:, length:].unique()) > 20  # and so that the tokens do: no loop of a few


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_in_hugging_faces_format_goes_both_ways(name: str, tmp_path: Path) -> None:
    """What transformers saves, under its published names, loads here; what is saved here loads
    there."""
    model = theirs(name)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_folder(tmp_path / "theirs")
    save_folder(ours, tmp_path / "ours")
    again = without_floor(AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval())
    tokens = torch.randint(97, (2, 11), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(tokens).logits
        assert (ours(tokens) - expected).abs().max() < TOLERANCE
        assert (again(tokens).logits - expected).abs().max() < TOLERANCE


def published_mamba2(module: Mamba2, u: Tensor, dt_limit: tuple[float, float]) -> Tensor:
    """A Mamba-2 layer token by token, from mamba_ssm's definition: `Mamba2.step`
    (modules/mamba2.py) with the clamp of dt that stands in ssd_chunk_state.py, softplus(dt + bias)
    to `dt_limit`, and the norm per group of NVIDIA's modeling_nemotron_h.py."""
    s = module.spec
    z, xbc, dt = F.linear(u, module.in_proj.weight, module.in_proj.bias).split(
        [s.d_ssm, s.d_xbc, s.n_heads], -1
    )
    padded = F.pad(xbc, (0, 0, s.d_conv - 1, 0))
    state = torch.zeros(u.shape[0], s.n_heads, s.head_dim, s.d_state, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        window = padded[:, t : t + s.d_conv]
        conv = F.silu((window * module.conv_weight.T).sum(1) + module.conv_bias)
        x, B, C = conv.split([s.d_ssm, s.n_groups * s.d_state, s.n_groups * s.d_state], -1)
        x = x.unflatten(-1, (s.n_heads, s.head_dim))
        per_group = s.n_heads // s.n_groups
        B, C = (
            v.unflatten(-1, (s.n_groups, s.d_state)).repeat_interleave(per_group, 1) for v in (B, C)
        )
        step = F.softplus(dt[:, t] + module.dt_bias).clamp(*dt_limit)
        decay = torch.exp(-step * module.A_log.exp())
        state = decay[..., None, None] * state + (step[..., None] * x)[..., None] * B[:, :, None]
        y = (state @ C[..., None]).squeeze(-1) + module.D[:, None] * x
        gated = (y.flatten(1) * F.silu(z[:, t])).unflatten(-1, (s.n_groups, -1))
        normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + module.norm.eps)
        outputs.append(module.out(normed.flatten(1) * module.norm.weight))
    return torch.stack(outputs, 1)


# What a config says of dt, and the clamp that it means: 1e308 and null are NVIDIA's own ways to
# write no limit.
LIMITS: list[tuple[Any, tuple[float, float]]] = [
    ([0.0, float("inf")], (0.0, float("inf"))),
    ([0.0, 1e308], (0.0, float("inf"))),
    ([0.0, {"__float__": "Infinity"}], (0.0, float("inf"))),
    (None, (0.0, float("inf"))),
    ([0.4, float("inf")], (0.4, float("inf"))),
]


@pytest.mark.parametrize("family", ["nemotron_h", "mamba2", "bamba", "zamba2"])
@pytest.mark.parametrize(
    ("limit", "clamp"), LIMITS, ids=["infinite", "1e308", "mapping", "null", "floor"]
)
def test_dt_is_clamped_as_the_published_code_does(
    family: str, limit: Any, clamp: tuple[float, float]
) -> None:
    """`time_step_min` is so large here that it would show, if it were a floor."""
    spec = spec_from_config(CONFIGS[family] | {"time_step_limit": limit, "time_step_min": 0.9})
    model = build(spec, dtype=torch.float64)
    module = next(module for module in model.modules() if type(module) is Mamba2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
        u = torch.randn(2, 11, spec.d_model, generator=generator, dtype=torch.float64)
        assert_close(family, module(u), published_mamba2(module, u, clamp), 1e-10)
    assert spec_from_config(hf_config(spec)).same_model(spec)


def test_a_folder_that_lies_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    model = theirs("jamba")
    model.save_pretrained(tmp_path)
    file, tensors = tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")

    def complaint(changed: dict[str, Tensor]) -> str:
        save_file(changed, file)
        with pytest.raises(WeightsError) as error:
            load_folder(tmp_path)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    expert = "model.layers.1.feed_forward.experts.2.up_proj.weight"
    assert (
        complaint({name: tensor for name, tensor in tensors.items() if name != expert})
        == f"{expert}: missing"
    )
    assert (
        complaint(tensors | {expert: tensors[expert].T.contiguous()})
        == f"{expert}: [64, 72] - must be [72, 64]"
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"^model\.safetensors: "):
        load_folder(tmp_path)
    file.unlink()
    with pytest.raises(WeightsError, match=r"no \*\.safetensors$"):
        load_folder(tmp_path)


def test_a_design_that_no_class_of_transformers_says_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^hf: layer 1: intra"):
        save_folder(build(design("H")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_family_is_tested() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == set(TENSORS)


def test_a_config_from_before_transformers_5_means_the_same() -> None:
    old = CONFIGS["llama-3"]
    new = {key: value for key, value in old.items() if not key.startswith("rope_")}
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": old["rope_theta"]}
    spec = spec_from_config(old, "tiny")
    assert spec == spec_from_config(new, "tiny")
    assert spec.attention is not None
    assert spec.attention.rope_scaling is not None
    assert spec.attention.rope_scaling.model_dump() == {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_context_len": 16,
    }


# A config with one field changed, and the line that refuses it.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "relu"}, "hidden_act: 'relu' - must be 'silu' or "),
    (
        "llama",
        {"rope_scaling": {"rope_type": "su"}},
        "rope_scaling.rope_type: 'su' - unknown RoPE scaling",
    ),
    ("llama", {"rope_scaling": "llama3"}, "rope_scaling: 'llama3' - must be a mapping"),
    (
        "llama",
        {"rope_parameters": LLAMA3 | {"mscale": 2}},
        "rope_parameters.mscale: 2 - unknown field, which may change",
    ),
    (
        "llama",
        {"quantization_config": {"quant_method": "gtpq"}},
        "quantization_config.quant_method: 'gtpq' - must be one of",
    ),
    (
        "llama",
        {"num_hidden_layers": 2.5},
        "num_hidden_layers: 2.5 - must be a positive whole number",
    ),
    (
        "llama",
        {"num_key_value_heads": 3},
        "num_attention_heads: 4 - must be divisible by num_key_value_heads (3)",
    ),
    ("llama", {"model_type": "gpt2"}, "model_type: 'gpt2' - must be one of "),
    (
        "mistral",
        {"rope_parameters": LLAMA3},
        "sliding_window: 5 - must be null if RoPE is scaled",
    ),
    (
        "mamba2",
        {"time_step_limit": [0.001, 0.1]},
        "time_step_limit: [0.001, 0.1] - dt must have no upper limit",
    ),
    (
        "nemotron_h",
        {"time_step_limit": [0.0, 0.1]},
        "time_step_limit: [0.0, 0.1] - dt must have no upper limit",
    ),
    (
        "nemotron_h",
        {"time_step_limit": [-1, 1e308]},
        "time_step_limit: [-1, 1e+308] - must be two non-negative numbers",
    ),
    (
        "nemotron_h",
        {"time_step_limit": 0.001},
        "time_step_limit: 0.001 - must be a list of two numbers",
    ),
    ("mamba2", {"expand": 4}, "expand: 4 - must be 2.0"),
    ("bamba", {"partial_rotary_factor": 0.25}, "partial_rotary_factor: 0.25 - must be 0.5"),
    ("bamba", {"attn_layer_indices": 1}, "attn_layer_indices: 1 - must be a list"),
]


@pytest.mark.parametrize(
    ("name", "change", "line"),
    REFUSED,
    ids=[f"{name}-{next(iter(change))}" for name, change, _ in REFUSED],
)
def test_a_field_that_changes_the_model_and_is_not_understood_is_refused(
    name: str, change: dict[str, Any], line: str
) -> None:
    with pytest.raises(SpecError) as error:
        spec_from_config(CONFIGS[name] | change)
    assert str(error.value).startswith(line)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_field_is_named() -> None:
    """Where transformers has no class whose default it could have."""
    with pytest.raises(SpecError, match="hidden_size: missing - this field is required"):
        spec_from_config({key: value for key, value in TINY_HYMBA.items() if key != "hidden_size"})


def test_tensors_that_do_not_fit_are_named() -> None:
    model = theirs("bamba")
    config, weights = saved(model), model.state_dict()

    def complaint(changes: dict[str, Tensor | None]) -> str:
        changed = {
            name: tensor for name, tensor in (weights | changes).items() if tensor is not None
        }
        with pytest.raises(WeightsError) as error:
            from_transformers(config, changed)
        return str(error.value)

    key, conv = "model.layers.1.self_attn.k_proj.weight", "model.layers.0.mamba.conv1d.weight"
    up = "model.layers.2.feed_forward.up_proj.weight"
    assert complaint({key: None}) == f"{key}: missing"
    assert complaint({key: torch.zeros(64, 64)}) == f"{key}: [64, 64] - must be [32, 64]"
    assert complaint({conv: weights[conv].squeeze(1)}) == f"{conv}: [192, 4] - must be [192, 1, 4]"
    assert complaint({up: weights[up][:-1]}) == f"{up}: [71, 64] - must be [72, 64]"
    assert (
        complaint({"model.layers.3.bias": torch.zeros(1)})
        == "model.layers.3.bias: the design bamba has no place for this tensor"
    )


def test_a_tied_head_may_be_left_out_but_not_differ_and_saved_frequencies_are_not_read() -> None:
    model = theirs("llama-3")
    config, weights = saved(model), model.state_dict()
    tokens = torch.arange(7)[None]
    without = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    without["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(12)
    assert torch.equal(
        from_transformers(config, without)(tokens), from_transformers(config, weights)(tokens)
    )
    with pytest.raises(
        WeightsError, match="differs from the embedding, though the config ties them"
    ):
        from_transformers(config, weights | {"lm_head.weight": weights["lm_head.weight"] + 1})


# ---------------------------------------------------------------- scans against mamba-ssm


def ssd_inputs(length: int, groups: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Four heads of width 6 and state 5, in float64."""
    shapes = {
        "x": (2, length, 4, 6),
        "dt": (2, length, 4),
        "A": (4,),
        "B": (2, length, groups, 5),
        "C": (2, length, groups, 5),
        "D": (4,),
    }
    drawn = {
        name: torch.randn(shape, generator=rng, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return drawn | {"dt": F.softplus(drawn["dt"]), "A": -drawn["A"].exp()}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("length", "chunk"), [(1, 1), (35, 7), (36, 12)])
def test_ssd_is_that_of_mamba_ssm(
    mamba_ssm: SimpleNamespace, rng: torch.Generator, length: int, chunk: int, groups: int
) -> None:
    """Their chunks divide the length, as they must; ours, of 8, do not."""
    inputs = ssd_inputs(length, groups, rng)
    expected = mamba_ssm.ssd_chunk_scan_combined_ref(
        *(inputs[name] for name in ("x", "dt", "A", "B", "C")), chunk, D=inputs["D"]
    )
    assert_close("eager", ssd(**inputs, chunk_size=8)[0], expected, 1e-12)
    assert_close("reference", ssd_reference.ssd(**inputs)[0], expected, 1e-12)


def test_ssd_from_a_state_is_that_of_the_papers_listing(
    mamba_ssm: SimpleNamespace, rng: torch.Generator
) -> None:
    """The listing has neither groups nor D, and takes x and A times dt."""
    i = ssd_inputs(35, 4, rng) | {"D": torch.zeros(4, dtype=torch.float64)}
    state = torch.randn(2, 4, 6, 5, generator=rng, dtype=torch.float64)
    y, after = mamba_ssm.ssd_minimal_discrete(
        i["x"] * i["dt"][..., None], i["A"] * i["dt"], i["B"], i["C"], 7, state[:, None]
    )
    for name, (our_y, our_after) in {
        "eager": ssd(**i, chunk_size=8, state=state),
        "reference": ssd_reference.ssd(**i, state=state),
    }.items():
        assert_close(name, our_y, y, 1e-12)
        assert_close(f"{name} state", our_after, after, 1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_step_of_ssd_is_that_of_mamba_ssm(
    mamba_ssm: SimpleNamespace, rng: torch.Generator, groups: int
) -> None:
    inputs = ssd_inputs(1, groups, rng)
    state = torch.randn(2, 4, 6, 5, generator=rng, dtype=torch.float64)
    x, dt, B, C = (inputs[name][:, 0] for name in ("x", "dt", "B", "C"))
    A, D = (inputs[name][:, None].expand(4, 6) for name in ("A", "D"))
    after = state.clone()
    expected = mamba_ssm.selective_state_update_ref(
        after, x, dt[..., None].expand_as(x), A[..., None].expand(4, 6, 5), B, C, D
    )
    assert_close("y", ssd_step(**inputs, state=state)[:, 0], expected, 1e-12)
    assert_close("state", state, after, 1e-12)


def scan_inputs(length: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Six channels with a state of 5, in float64."""
    shapes = {
        "x": (2, length, 6),
        "dt": (2, length, 6),
        "A": (6, 5),
        "B": (2, length, 5),
        "C": (2, length, 5),
        "D": (6,),
    }
    drawn = {
        name: torch.randn(shape, generator=rng, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return drawn | {"dt": F.softplus(drawn["dt"]), "A": -drawn["A"].exp()}


@pytest.mark.parametrize("length", [1, 35, 300])
def test_the_selective_scan_is_that_of_mamba_ssm(
    mamba_ssm: SimpleNamespace, rng: torch.Generator, length: int
) -> None:
    """Theirs has time last."""
    i = scan_inputs(length, rng)
    x, dt, B, C = (i[name].transpose(1, 2) for name in ("x", "dt", "B", "C"))
    y, after = mamba_ssm.selective_scan_ref(x, dt, i["A"], B, C, i["D"], return_last_state=True)
    for name, (our_y, our_after) in {
        "eager": selective_scan(**i),
        "reference": scan_reference.selective_scan(**i),
    }.items():
        assert_close(name, our_y, y.transpose(1, 2), 1e-12)
        assert_close(f"{name} state", our_after, after, 1e-12)


def test_a_step_of_the_selective_scan_is_that_of_mamba_ssm(
    mamba_ssm: SimpleNamespace, rng: torch.Generator
) -> None:
    i = scan_inputs(1, rng)
    state = torch.randn(2, 6, 5, generator=rng, dtype=torch.float64)
    x, dt, B, C = (i[name][:, 0] for name in ("x", "dt", "B", "C"))
    after = state.clone()
    expected = mamba_ssm.selective_state_update_ref(after, x, dt, i["A"], B, C, i["D"])
    assert_close("y", selective_scan_step(**i, state=state)[:, 0], expected, 1e-12)
    assert_close("state", state, after, 1e-12)

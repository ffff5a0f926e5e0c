"""Designs out: what a format says is read back as the same model, and what it cannot say is
named."""

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_core.cli.main import main
from hybrid_core.costs.model import model_costs
from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.interop.export import export, notes
from hybrid_core.interop.families.registry import FAMILIES
from hybrid_core.interop.fla import from_fla, to_fla
from hybrid_core.interop.huggingface import hf_config, spec_from_config
from hybrid_core.interop.megatron import (
    block_sizes,
    from_megatron,
    megatron_pattern,
    megatron_text,
    to_megatron,
)
from hybrid_core.interop.roundtrip import ExportError
from hybrid_core.interop.torchtitan import from_torchtitan, to_torchtitan, torchtitan_text
from hybrid_core.validation import SpecError
from tests.designs import MOE, design
from tests.interop.unseen import UNSEEN, config_of

LIBRARY: dict[str, ArchSpec] = {name: model.spec for name, model in published.models().items()}
LIBRARY |= {name: presets.get(name).spec for name in presets.names()}

# Parts of the designs here that no exported transformers class has.
UNSAYABLE = ("intra-", "diff-", "swa-", "-moe-", "Hymba", "Samba", "Vamba")


def sayable(name: str) -> bool:
    return not any(part in name for part in UNSAYABLE)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_design_of_the_library_goes_to_transformers_and_back_or_says_why_not(name: str) -> None:
    if not sayable(name):
        with pytest.raises(
            ExportError,
            match=r"^hf: .* - none of the \d+ transformers classes that can be exported "
            r"(has this|has these)",
        ):
            hf_config(LIBRARY[name])
        return
    assert spec_from_config(hf_config(LIBRARY[name])).same_model(LIBRARY[name])


# One of each architecture; the presets' sizes differ in nothing that a config could get wrong.
BUILT = [*filter(sayable, published.models()), "llama-1b", "inter-1to5-1b", "mamba-1b"]


@pytest.mark.parametrize("name", BUILT)
def test_transformers_builds_an_exported_config_with_the_same_count(
    name: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert main(["export", name, "--to", "hf", "-o", str(tmp_path)]) == 0
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == model_costs(LIBRARY[name]).params().total
    )


@pytest.mark.parametrize("name", UNSEEN)
def test_a_config_of_every_family_comes_back_as_the_same_model(name: str) -> None:
    spec = spec_from_config(config_of(name))
    config = hf_config(spec)
    assert config["model_type"] in FAMILIES
    assert spec_from_config(config).same_model(spec)


@pytest.mark.parametrize("name", LIBRARY)
def test_yaml_comes_back_as_the_same_design(name: str) -> None:
    assert ArchSpec.from_yaml(export(LIBRARY[name], "yaml")["spec.yaml"]) == LIBRARY[name]


# ---------------------------------------------------------------- Megatron


def test_the_pattern_of_nemotron_h_is_its_own() -> None:
    path = PROFILES / "models" / "configs" / "Nemotron-H-8B.json"
    own = json.loads(path.read_text())
    assert megatron_pattern(LIBRARY["Nemotron-H-8B"]) == own["hybrid_override_pattern"]


def test_megatron_counts_blocks_and_symbols() -> None:
    text = export(LIBRARY["inter-1to5-1b"], "megatron")["megatron.args"]
    assert "13 blocks are 26 symbols" in text
    assert "--hybrid-layer-pattern M-M-M-*-M-M-M-*-M-M-M-M-M-\n--num-layers 26\n" in text
    for flag in (
        "--mamba-num-heads 32",
        "--mamba-state-dim 128",
        "--kv-channels 64",
        "--num-query-groups 8",
        "--swiglu",
        "--rotary-base 500000",
    ):
        assert flag + "\n" in text


def test_megatron_says_experts_that_it_routes_alike() -> None:
    text = export(LIBRARY["inter-1to5-moe-1b"], "megatron")["megatron.args"]
    assert "MEMEME*E" in text
    assert "--moe-router-score-function sigmoid\n" in text
    with pytest.raises(
        ExportError,
        match=r"^megatron: layer 1: ffn moe\.norm_top_k: False - "
        r"Megatron-LM at 089b33b cannot express it",
    ):
        export(
            design("AM", ffn=MOE, swa=None, intra=None, diff=None), "megatron"
        )  # two chosen experts, whose weights Megatron normalises


NO_SYMBOL = (
    "the hybrid pattern of Megatron-LM at 089b33b has no symbol for it; "
    "it has them for mamba2, gated_deltanet, attention, swa"
)
# How Megatron reads each flag: `type` or `action` of megatron/training/arguments.py at d98e8a6, or
# of the field of TransformerConfig that ArgumentGroupFactory makes it from. A tuple is read by
# `tuple_type`, a list by `moe_freq_type`.
SWITCHES = """
    disable-bias-linear untie-embeddings-and-output-weights apply-layernorm-1p swiglu squared-relu
    group-query-attention qk-layernorm attention-output-gate add-qkv-bias use-rope-scaling
    moe-router-enable-expert-bias moe-router-pre-softmax moe-shared-expert-gate
"""
WHOLE = """
    num-layers hidden-size vocab-size ffn-hidden-size num-attention-heads num-query-groups
    kv-channels rotary-base mamba-num-heads mamba-head-dim mamba-state-dim mamba-num-groups
    linear-num-key-heads linear-num-value-heads linear-key-head-dim linear-value-head-dim
    linear-conv-kernel-dim num-experts moe-router-topk moe-ffn-hidden-size
    moe-shared-expert-intermediate-size moe-latent-size
"""
FRACTIONS = (
    "norm-epsilon rotary-percent rope-scaling-factor moe-router-topk-scaling-factor softmax-scale"
)
WORDS = {
    "hybrid-layer-pattern": None,
    "normalization": ["LayerNorm", "RMSNorm"],
    "position-embedding-type": ["learned_absolute", "rope", "yarn", "mrope", "relative", "none"],
    "moe-router-score-function": ["softmax", "sigmoid", "sqrtsoftplus"],
    "softmax-type": ["vanilla", "off-by-one", "learnable"],
    "window-size": None,
    "window-attn-skip-freq": None,
}


def megatrons_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--spec", nargs="*")
    for flag in SWITCHES.split():
        parser.add_argument(f"--{flag}", action="store_true")
    for flag in WHOLE.split():
        parser.add_argument(f"--{flag}", type=int)
    for flag in FRACTIONS.split():
        parser.add_argument(f"--{flag}", type=float)
    for flag, choices in WORDS.items():
        parser.add_argument(f"--{flag}", choices=choices)
    return parser


def read_by_megatron(spec: ArchSpec) -> argparse.Namespace:
    lines = export(spec, "megatron")["megatron.args"].splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    return megatrons_parser().parse_args(words)


@pytest.mark.parametrize(
    "name",
    [
        "inter-1to5-1b",
        "inter-1to5-moe-1b",
        "llama-1b",
        "Bamba-9B",
        "Nemotron-H-8B",
        "Qwen3-Next-80B-A3B",
    ],
)
def test_megatron_has_every_flag_and_reads_its_value(name: str) -> None:
    assert read_by_megatron(LIBRARY[name]).hidden_size == LIBRARY[name].d_model


def test_qwen3_next_goes_to_megatron() -> None:
    """The pattern by hand: three of four layers are Gated DeltaNet (G), each with experts (E)."""
    flags = read_by_megatron(LIBRARY["Qwen3-Next-80B-A3B"])
    assert flags.hybrid_layer_pattern == "GEGEGE*E" * 12
    assert (
        flags.linear_num_key_heads,
        flags.linear_num_value_heads,
        flags.linear_conv_kernel_dim,
    ) == (16, 32, 4)
    assert (
        flags.qk_layernorm,
        flags.attention_output_gate,
        flags.moe_shared_expert_gate,
        flags.apply_layernorm_1p,
    ) == (True,) * 4


# The published configs' own patterns, in Megatron's letters, and what NVIDIA's scripts pass for the
# latent experts.
NEMOTRON_3: dict[str, tuple[str, int | None]] = {
    "Nano-30B-A3B": ("MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", None),
    "Super-120B-A12B": (
        "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
        1024,
    ),
}


@pytest.mark.parametrize("name", NEMOTRON_3)
def test_nemotron_3_goes_to_megatron_with_its_own_pattern(name: str) -> None:
    pattern, d_latent = NEMOTRON_3[name]
    config = UNSEEN["nemotron_h"] | {
        "hybrid_override_pattern": pattern,
        "num_hidden_layers": len(pattern),
        "moe_latent_size": d_latent,
    }
    config |= {
        "time_step_limit": [0.0, float("inf")],
        "time_step_min": 0.001,
        "use_bias": False,
        "mlp_bias": False,
    }
    flags = read_by_megatron(spec_from_config({"model_type": "nemotron_h"} | config))
    assert flags.hybrid_layer_pattern == pattern
    assert flags.moe_latent_size == d_latent


def test_a_window_goes_to_megatron_layer_by_layer() -> None:
    """A window of 4 is the query and the 3 before it; the marks are of symbols, a feed-forward's
    among them."""
    spec = design("SAMS", attention={"rope_theta": 10_000.0}, swa={"sink": 0})
    flags = read_by_megatron(spec)
    assert flags.hybrid_layer_pattern == "*-*-M-*-"
    assert flags.window_size == "3,0"
    assert flags.window_attn_skip_freq == "[1,0,0,0,0,0,1,0]"


@pytest.mark.parametrize(
    "change", [{"qkv_bias": True}, {"qk_norm": True}, {"sink_logits": True}, {"softmax_scale": 0.5}]
)
def test_options_of_attention_go_to_megatron(change: dict[str, Any]) -> None:
    read_by_megatron(design("AM", attention=change))


def test_shared_experts_are_one_of_their_width_together() -> None:
    moe = MOE | {"n_shared": 2, "top_k": 1}
    assert read_by_megatron(design("AM", ffn=moe)).moe_shared_expert_intermediate_size == 40


CANNOT: list[tuple[str, str, str]] = [
    ("intra-1to5-1b", "megatron", f"megatron: layer 5: intra - {NO_SYMBOL}"),
    ("Jamba-v0.1", "megatron", f"megatron: layer 1: mamba1 - {NO_SYMBOL}"),
    (
        "swa-0to1-1b",
        "megatron",
        "megatron: layer 1: swa.sink: 64 - Megatron-LM at 089b33b cannot express it",
    ),
    (
        "swa-1to5-1b",
        "megatron",
        "megatron: attention.rope_scaling: factor 32.0 - "
        "Megatron-LM at 089b33b scales RoPE in windowed layers too",
    ),
    ("llama-1b", "fla", "fla: layer 1: attention.rope_scaling: "),
    ("inter-1to5-1b", "fla", "fla: attention with mamba2 - fla.models 0.6 has no class"),
    ("Qwen3-Next-80B-A3B", "fla", "fla: layer 1: ffn moe - fla.models 0.6 cannot express it"),
    ("llama-moe-1b", "torchtitan", "torchtitan: ffn: not dense and gated in every layer"),
    ("inter-1to5-1b", "torchtitan", "torchtitan: mamba2 - the export is torchtitan 0.3"),
    (
        "swa-0to1-1b",
        "hf",
        "hf: layer 1: swa.sink: 64 - none of the 19 transformers classes that can be exported "
        "has this; mistral is closest",
    ),
    ("Qwen3-Next-80B-A3B", "python", "python: Gated DeltaNet - costed, not built"),
]


@pytest.mark.parametrize(
    ("name", "to", "line"), CANNOT, ids=[f"{name}-{to}" for name, to, _ in CANNOT]
)
def test_what_a_format_cannot_say_is_named(
    name: str, to: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", name, "--to", to, "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- FLA, torchtitan, Python


@pytest.mark.parametrize("name", ["Samba-1.3B", "mamba2-130m", "Mamba-Codestral-7B-v0.1"])
def test_fla_reads_what_it_has_classes_for(name: str) -> None:
    config = json.loads(export(LIBRARY[name], "fla")["config.json"])
    assert config["model_type"] in ("samba", "mamba2")
    assert config["hidden_size"] == LIBRARY[name].d_model


PLAIN_LLAMA = design(
    "A",
    attention={"n_heads": 4, "n_kv_heads": 2, "head_dim": 8},
    ffn={"kind": "swiglu", "d_ff": 256},
)


# Gated DeltaNet alone, and between windows and full attention, with heads as wide as FLA makes them
# (32 / 4).
DELTANET = {
    "kind": "gated_deltanet",
    "n_k_heads": 2,
    "n_v_heads": 4,
    "k_head_dim": 8,
    "v_head_dim": 12,
    "d_conv": 3,
}
DELTANETS = [
    design(
        pattern,
        attention={"n_heads": 4, "n_kv_heads": 2, "head_dim": 8},
        swa={"sink": 0},
        mixers={"R": DELTANET},
    )
    for pattern in ("RR", "RRA", "RASR")
]


def test_fla_places_attention_between_gated_deltanets() -> None:
    config = json.loads(export(DELTANETS[2], "fla")["config.json"])
    assert config["model_type"] == "gated_deltanet"
    assert [(entry["layers"], entry["window_size"]) for entry in config["attn"]] == [
        ([1], None),
        ([2], 4),
    ]
    assert (config["num_heads"], config["num_v_heads"], config["head_dim"], config["expand_v"]) == (
        2,
        4,
        8,
        1.5,
    )


def test_what_gated_deltanet_of_fla_cannot_say_is_named() -> None:
    wide = design("RA", attention={"head_dim": 16}, mixers={"R": DELTANET})
    with pytest.raises(
        ExportError,
        match=r"^fla: layer 2: attention\.head_dim: 16 - fla\.models 0\.6 cannot express it$",
    ):
        export(wide, "fla")
    kda = design("R", mixers={"R": {"kind": "kda", "n_heads": 4, "head_dim": 8}})
    with pytest.raises(
        ExportError, match=r"^fla: kda - the output gate of fla\.models 0\.6's kda has a bias"
    ):
        export(kda, "fla")


FLA = Path(sys.prefix) / "fla"
COUNT_BY_FLA = """
import json, sys
import torch
from fla import models  # registers its classes with transformers
from fla.layers import attn
from transformers import AutoConfig, AutoModelForCausalLM

attn.flash_attn_func = print  # is looked for when attention is made; nothing here computes with it
for fields in json.loads(sys.stdin.read()):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    print(type(model).__module__.startswith("fla."), sum(p.numel() for p in model.parameters()))
"""


def test_fla_builds_the_same_parameters() -> None:
    specs = [
        *(LIBRARY[name] for name in ("Mamba-Codestral-7B-v0.1", "mamba2-130m", "Samba-1.3B")),
        PLAIN_LLAMA,
        *DELTANETS,
    ]
    configs = [json.loads(export(spec, "fla")["config.json"]) for spec in specs]
    environment = os.environ | {"PYTHONPATH": str(FLA)}
    command = [sys.executable, "-c", COUNT_BY_FLA]
    result = subprocess.run(
        command,
        input=json.dumps(configs),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == [
        f"True {model_costs(spec).params().total}" for spec in specs
    ], result.stderr


def test_torchtitan_is_told_all_of_a_llama() -> None:
    """The file that this writes built the same parameters in torchtitan 0.3.0, by hand: it needs
    too much to be installed for a test."""
    spec = LIBRARY["Llama-3.2-1B"]
    told: dict[str, Any] = {}
    exec(export(spec, "torchtitan")["model_config.py"].split("\n\n")[2], told)
    assert (told["hidden_dim"], told["n_heads"], told["n_kv_heads"], told["tied"]) == (
        8192,
        32,
        8,
        True,
    )
    assert told["rope"] == {
        "theta": 500000.0,
        "scaling": "llama",
        "scaling_factor": 32.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


def test_the_python_snippet_builds_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    spec = design("AMSH", name='a "quoted" name')
    exec(export(spec, "python")["model.py"], {})
    assert capsys.readouterr().out.startswith(f"{model_costs(spec).params().total:,} parameters")


def test_megatrons_flags_come_back_as_the_layers_that_they_were() -> None:
    """By hand: two symbols a layer, the mixer's and the feed-forward's."""
    spec = design("AM")
    assert block_sizes(spec) == [2, 2]
    flags = to_megatron(spec)
    assert (flags["hybrid-layer-pattern"], flags["num-layers"]) == ("*-M-", 4)
    back = from_megatron(flags, [2, 2], chunk_size=64)
    assert back["layers"] == {"pattern": "AM", "ffns": "FF"}
    assert back["ssm"]["chunk_size"] == 64
    text = megatron_text(spec, {"hybrid-layer-pattern": "*-M-", "swiglu": True})
    assert text.endswith("--hybrid-layer-pattern *-M-\n--swiglu\n")


def test_fla_gives_a_feed_forward_two_thirds_of_four_times_the_width() -> None:
    """2048 * 4 * 2 / 3 = 5461.3, which FLA rounds up to 22 * 256."""
    config = to_fla(PLAIN_LLAMA) | {"hidden_size": 2048, "intermediate_size": None}
    assert from_fla(config)["ffn"] == {"kind": "swiglu", "d_ff": 5632}


def test_a_llama_of_torchtitan_comes_back_with_its_scaling() -> None:
    spec = LIBRARY["Llama-3.2-1B"]
    told = to_torchtitan(spec)
    assert (told["dim"], told["hidden_dim"]) == (2048, 8192)  # its config.json
    assert from_torchtitan(told)["attention"]["rope_scaling"]["original_context_len"] == 8192
    assert "\ndim = 2048\n" in torchtitan_text(spec, told)


def test_an_unknown_format_and_an_unwritable_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpecError, match="to: 'onnx' - must be yaml or hf"):
        export(LIBRARY["llama-1b"], "onnx")
    (tmp_path / "file").write_text("")
    assert main(["export", "llama-1b", "--to", "yaml", "-o", str(tmp_path / "file" / "x")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_moving_an_attention_layer_of_jamba_goes_to_transformers(tmp_path: Path) -> None:
    """From its config, one attention layer moved in every period of eight, and back out."""
    jamba = LIBRARY["Jamba-v0.1"]
    layers: dict[str, Any] = {"pattern": "MMMMMAMM" * 4, "ffns": jamba.layers.ffns}
    moved = jamba.replace(layers=layers)
    assert hf_config(moved)["attn_layer_offset"] == 5
    odd = jamba.replace(layers=layers | {"pattern": "AMMMMAMM" + "MMMMMAMM" * 3})
    with pytest.raises(ExportError, match="hf: layer "):
        hf_config(odd)


def test_a_refusal_names_the_class_that_says_the_most_layers() -> None:
    """Bamba has RoPE and fails in layer 1. Granite says attention without a position, and fails at
    the norm before the gate in layer 2."""
    spec = design("AM", attention={"position": "nope"}, ssm={"norm_first": True})
    with pytest.raises(ExportError) as error:
        hf_config(spec)
    line = str(error.value)
    assert line.startswith("hf: layer 2: mamba2.norm_first: True - none of the ")
    assert line.endswith("; granitemoehybrid is closest")


def test_an_export_says_what_is_no_part_of_its_format() -> None:
    """How weights are stored is written nowhere; what states are kept in, where a config has a
    field for it."""
    spec = published.resolve("Nemotron-H-8B").replace(
        state_dtype="fp32", quantization=[{"format": "fp8", "parts": ["linear"]}]
    )
    assert json.loads(export(spec, "hf")["config.json"])["mamba_ssm_cache_dtype"] == "float32"
    assert spec_from_config(json.loads(export(spec, "hf")["config.json"])).state_dtype == "fp32"
    assert [line.partition(":")[0] for line in notes(spec, "hf")] == ["quantization"]
    assert [line.partition(":")[0] for line in notes(spec, "megatron")] == [
        "quantization",
        "state_dtype",
    ]
    assert notes(spec, "yaml") == [] and notes(published.resolve("Nemotron-H-8B"), "megatron") == []

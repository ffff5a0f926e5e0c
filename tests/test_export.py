"""Designs out: what a format says is read back as the same model, and what it cannot say is named."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid_core import presets
from hybrid_core.cli import main
from hybrid_core.costs.model import model_costs
from hybrid_core.interop.export import ExportError, export, hf_config
from hybrid_core.interop.frameworks import megatron_pattern
from hybrid_core.interop.huggingface import FAMILIES, spec_from_config
from hybrid_core.spec import ArchSpec, SpecError
from tests.designs import MOE, design
from tests.test_models import UNSEEN

LIBRARY: dict[str, ArchSpec] = {name: model.spec for name, model in presets.models().items()}
LIBRARY |= {name: presets.get(name).spec for name in presets.names()}

# What the library's designs hold that no class of transformers has.
UNSAYABLE = ("intra-", "diff-", "swa-", "-moe-", "Hymba", "Samba", "Vamba")


def sayable(name: str) -> bool:
    return not any(part in name for part in UNSAYABLE)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_design_of_the_library_goes_to_transformers_and_back_or_says_why_not(name: str) -> None:
    if not sayable(name):
        with pytest.raises(
            ExportError, match=r"^hf: .* - no class of transformers (says|has) this|^hf: .* - no class of transformers has these"
        ):
            hf_config(LIBRARY[name])
        return
    assert spec_from_config(hf_config(LIBRARY[name])).same_model(LIBRARY[name])


# One of each architecture; the presets' sizes differ in nothing that a config could get wrong.
BUILT = [*filter(sayable, presets.models()), "llama-1b", "inter-1to5-1b", "mamba-1b"]


@pytest.mark.parametrize("name", BUILT)
def test_transformers_builds_an_exported_config_with_the_same_count(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert main(["export", name, "--to", "hf", "-o", str(tmp_path)]) == 0
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert sum(parameter.numel() for parameter in model.parameters()) == model_costs(LIBRARY[name]).params().total


@pytest.mark.parametrize("name", UNSEEN)
def test_a_config_of_every_family_comes_back_as_the_same_model(name: str) -> None:
    spec = spec_from_config({"model_type": name.split("-", maxsplit=1)[0]} | UNSEEN[name])
    config = hf_config(spec)
    assert config["model_type"] in FAMILIES
    assert spec_from_config(config).same_model(spec)


@pytest.mark.parametrize("name", LIBRARY)
def test_yaml_comes_back_as_the_same_design(name: str) -> None:
    assert ArchSpec.from_yaml(export(LIBRARY[name], "yaml")["spec.yaml"]) == LIBRARY[name]


# ---------------------------------------------------------------- Megatron


def test_the_pattern_of_nemotron_h_is_its_own() -> None:
    own = json.loads((Path(presets.PROFILES) / "models" / "configs" / "Nemotron-H-8B.json").read_text())["hybrid_override_pattern"]
    assert megatron_pattern(LIBRARY["Nemotron-H-8B"]) == own


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
        "--rotary-base 500000.0",
    ):
        assert flag + "\n" in text


def test_megatron_says_experts_that_it_routes_alike() -> None:
    text = export(LIBRARY["inter-1to5-moe-1b"], "megatron")["megatron.args"]
    assert "MEMEME*E" in text
    assert "--moe-router-score-function sigmoid\n" in text
    with pytest.raises(ExportError, match=r"^megatron: layer 1: ffn moe\.norm_top_k: False - this format cannot say it"):
        export(design("AM", ffn=MOE, swa=None, intra=None, diff=None), "megatron")  # two chosen experts, whose weights Megatron normalises


CANNOT: list[tuple[str, str, str]] = [
    (
        "intra-1to5-1b",
        "megatron",
        "megatron: layer 5: intra - Megatron's hybrid pattern has no symbol for it; it has them for mamba2 and attention",
    ),
    (
        "swa-1to5-1b",
        "megatron",
        "megatron: layer 1: swa - Megatron's hybrid pattern has no symbol for it; it has them for mamba2 and attention",
    ),
    ("Jamba-v0.1", "megatron", "megatron: layer 1: mamba1 - Megatron's"),
    ("llama-1b", "fla", "fla: layer 1: attention.rope_scaling: "),
    ("inter-1to5-1b", "fla", "fla: attention beside mamba2 - fla.models has no class"),
    ("llama-moe-1b", "torchtitan", "torchtitan: ffn: not a dense gated one in every layer"),
    ("inter-1to5-1b", "torchtitan", "torchtitan: mamba2 - torchtitan's models are Transformers"),
    ("swa-0to1-1b", "hf", "hf: layer 1: swa.sink: 64 - no class of transformers says this; mistral comes closest"),
    ("Qwen3-Next-80B-A3B", "python", "python: Gated DeltaNet - costed, not built"),
]


@pytest.mark.parametrize(("name", "to", "line"), CANNOT, ids=[f"{name}-{to}" for name, to, _ in CANNOT])
def test_what_a_format_cannot_say_is_named(name: str, to: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


PLAIN_LLAMA = design("A", attention={"n_heads": 4, "n_kv_heads": 2, "head_dim": 8}, ffn={"kind": "swiglu", "d_ff": 256})


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
    specs = [*(LIBRARY[name] for name in ("Mamba-Codestral-7B-v0.1", "mamba2-130m", "Samba-1.3B")), PLAIN_LLAMA]
    configs = [json.loads(export(spec, "fla")["config.json"]) for spec in specs]
    environment = os.environ | {"PYTHONPATH": str(FLA)}
    command = [sys.executable, "-c", COUNT_BY_FLA]
    result = subprocess.run(command, input=json.dumps(configs), env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == [f"True {model_costs(spec).params().total}" for spec in specs], result.stderr


def test_torchtitan_is_told_all_of_a_llama() -> None:
    """The file that this writes built the same parameters in torchtitan 0.3.0, by hand: it needs too much to be installed for a test."""
    spec = LIBRARY["Llama-3.2-1B"]
    told: dict[str, Any] = {}
    exec(export(spec, "torchtitan")["model_config.py"].split("\n\n")[2], told)
    assert (told["hidden_dim"], told["n_heads"], told["n_kv_heads"], told["tied"]) == (8192, 32, 8, True)
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


def test_an_unknown_format_and_an_unwritable_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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

"""The command line as a script sees it: output, exit code, one line on stderr."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_core.cli.main import main
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.runs.lease import CLOCK
from hybrid_core.runs.store import open_store
from tests.designs import design


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path / "data"))


def test_presets_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "presets")
    assert code == 0 and all(name in out for name in presets.TABLE2)
    code, out, _ = run(capsys, "presets", "--show", "mamba-1b")
    assert code == 0 and ArchSpec.from_yaml(out) == presets.get("mamba-1b").spec


def test_cost_json_has_the_documented_keys_and_table_2s_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(
        capsys, "cost", "inter-1to5-1b", "--json", "--tokens", "60e9", "--hardware", "h200_sxm"
    )
    record = json.loads(out)
    assert code == 0
    assert {"total", "embedding", "non_embedding", "active"} <= set(record["params"])
    for convention in ("paper", "exact"):
        assert {"per_token", "per_sample"} <= set(record["train_flops"][convention])
        assert convention in record["cache_bytes"]
    assert {"weights", "cache", "activations", "total"} <= set(record["memory_bytes"])
    assert {"prefill_tokens_per_s", "decode_tokens_per_s"} <= set(record["predicted"])
    assert record["decode_flops_per_token"] > 0
    assert [layer["kind"] for layer in record["layers"]].count("attention") == 2
    assert {"kind", "params", "flops", "cache_bytes"} <= set(record["layers"][0])
    # Table 2: 0.96B parameters, 3.7e20 FLOPs at 60B tokens, 43 MiB
    assert f"{record['params']['non_embedding'] / 1e9:.2f}" == "0.96"
    assert f"{record['train_flops']['paper']['total']:.1e}" == "3.7e+20"
    assert round(record["cache_bytes"]["paper"] / 2**20) == 43


def test_cost_reads_a_file_and_prints_conventions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "design.yaml"
    path.write_text(design("AM").to_yaml())
    code, out, _ = run(capsys, "cost", str(path), "--context-len", "64", "--kv-cache-dtype", "fp8")
    assert code == 0 and all(word in out for word in ("exact", "paper", "predicted"))


BAD = {
    "unknown preset": (["cost", "no-such"], "no-such"),
    "unknown hardware": (["cost", "llama-1b", "--hardware", "abacus"], "hardware: 'abacus'"),
    "batch of zero": (["cost", "llama-1b", "--batch-size", "0"], "batch_size: 0"),
    "unknown dtype": (["cost", "llama-1b", "--weight-dtype", "int5"], "weight_dtype: 'int5'"),
    "text for a number": (["cost", "llama-1b", "--context-len", "many"], "many"),
    "no spec": (["cost"], "SPEC"),
    "no command": ([], "COMMAND"),
    "tokens below zero": (["cost", "llama-1b", "--tokens", "-5"], "tokens: -5"),
    "unknown run": (["report", "99", "-o", "x.html"], "run 99"),
    "run without number": (["runs", "show"], "id: missing"),
    "odd device": (["profile", "llama-1b", "--device", "tpu"], "device: 'tpu'"),
    "budget too small": (["profile", "llama-1b", "--budget", "0"], "budget_s: 0.0"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and named in err


@pytest.mark.slow
def test_profile_show_report_and_delete(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, page = tmp_path / "design.yaml", tmp_path / "report.html"
    path.write_text(design("AMHS", name="mine <img src=x onerror=alert(1)>").to_yaml())
    code, out, err = run(
        capsys,
        "profile",
        str(path),
        "--budget",
        "10",
        "--device",
        "cpu",
        "--dtype",
        "fp32",
        "--json",
    )
    record = json.loads(out)
    assert code == 0 and record["status"] == "done" and "Measuring decode" in err

    code, out, _ = run(capsys, "runs")
    assert code == 0 and "done" in out
    code, out, _ = run(capsys, "runs", "show", "1")
    assert code == 0 and "traced" in out and "measured" in out

    code, _, _ = run(capsys, "report", "1", "-o", str(page))
    html = page.read_text()
    assert code == 0 and len(html) < 6 * 2**20
    body = html[html.index("<body>") :]
    assert "<img" not in body and "mine &lt;img" in body
    # It opens offline: nothing is loaded from elsewhere.
    assert not re.search(r"(src|url)\s*[=(]\s*[\"']?http|<link|@import", body)
    assert 'src="' not in body
    assert "python -m hybrid_core profile design.yaml" in body
    assert record["parts"]["environment"]["name"] in body

    assert run(capsys, "runs", "delete", "1")[0] == 0
    assert run(capsys, "runs", "show", "1")[0] == 2


def test_the_module_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_core", "cost", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("'x' - neither a preset")


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/opt/venv/bin/hybrid-core", "hybrid-core"),
        ("/opt/hybrid_core/__main__.py", "python -m hybrid_core"),
    ],
)
def test_the_usage_names_the_program_as_it_was_called(
    called: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    code, out, _ = run(capsys, "cost", "--help")
    assert code == 0 and out.startswith(f"usage: {name} cost [-h]")
    code, _, err = run(capsys, "cost")
    assert code == 2 and err.endswith(f"see `{name} cost --help`\n")


def test_runs_that_were_never_begun_are_listed_cancelled_and_deleted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = open_store()
    run_id = store.create("profile", design("A"), {}, "elsewhere")
    store.claim("a lease", CLOCK.boot, CLOCK.seconds())  # so the queue does not start it
    code, out, _ = run(capsys, "runs", "--json")
    [listed] = json.loads(out)
    assert code == 0
    assert (listed["id"], listed["status"], listed["parts"]) == (run_id, "running", {})

    code, _, err = run(capsys, "runs", "delete", str(run_id))
    assert (code, err) == (2, f"run {run_id} - is running; cancel it before deleting\n")
    assert run(capsys, "runs", "cancel", str(run_id))[0] == 0
    code, _, err = run(capsys, "runs", "cancel", str(run_id))
    assert (code, err) == (2, f"id: {run_id} - this run has already ended\n")
    assert run(capsys, "runs", "delete", str(run_id))[0] == 0
    assert run(capsys, "runs", "--json")[1] == "[]\n"


def test_import_prints_a_design_that_cost_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    made = tmp_path / "small.yaml"
    source = str(tmp_path / "config.json")
    code, out, _ = run(capsys, "import", source, "--name", "small", "-o", str(made), "--json")
    record = json.loads(out)
    assert code == 0
    assert (record["name"], record["pattern"], record["level"]) == ("small", "AA", "built")
    # A layer: two norms of 64; queries and output 2 x 64 x 64; keys and values 2 x 64 x 32; three
    # matrices of 64 x 96. The model: two layers, the last norm, 100 x 64 embeddings.
    layer = 2 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    assert record["params"]["total"] == 2 * layer + 64 + 100 * 64
    # Keys and values: 2 layers x 2 x 2 heads x 16 numbers of 2 bytes, at 8,192 tokens.
    assert record["cache_bytes_8k"]["exact"] == 2 * 2 * 2 * 16 * 2 * 8192
    code, out, _ = run(capsys, "cost", str(made), "--json")
    assert code == 0 and json.loads(out)["params"] == record["params"]

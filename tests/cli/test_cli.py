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
    assert (
        not re.search(r"(src|url)\s*[=(]\s*[\"']?http|<link|@import", body) and 'src="' not in body
    )  # opens offline
    assert (
        "python -m hybrid_core profile design.yaml" in body
        and record["parts"]["environment"]["name"] in body
    )

    assert run(capsys, "runs", "delete", "1")[0] == 0
    assert run(capsys, "runs", "show", "1")[0] == 2


def test_the_module_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_core", "cost", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.startswith("'x' - neither a preset")
    )

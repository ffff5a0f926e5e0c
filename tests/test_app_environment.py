"""What the app offers works with what `make app` installs, or one line names the command that
installs the rest."""

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.app_environment import ROOT, closure, outside, required, run
from tests.checkpoints import save_tiny_llama

IMPORT_ALL = """
import pkgutil
from importlib import import_module
import app, hybrid_core, kernels, pages.parts

lacking = {}
for package in (hybrid_core, kernels, pages.parts):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            if not module.name.endswith("__main__"):
                import_module(module.name)
        except ModuleNotFoundError as error:
            lacking[module.name] = error.name
import json
print(json.dumps(lacking))
"""


def test_the_environment_is_the_apps_alone() -> None:
    kept = closure(required("requirements.txt"))
    assert {"torch", "streamlit", "sqlalchemy"} <= kept
    assert kept.isdisjoint({"pytest", "playwright", "mamba-ssm", "triton"})
    assert {"pytest", "_pytest", "playwright", "mamba_ssm", "triton"} <= set(
        outside(kept)["modules"]
    )


@pytest.mark.slow
def test_every_module_can_be_imported_but_those_that_only_triton_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    lacking = json.loads(done.stdout)
    assert set(lacking.values()) == {"triton"}
    assert all(name == "kernels.tiles" or ".triton_" in name for name in lacking)


@pytest.mark.slow
def test_every_page_opens(tmp_path: Path) -> None:
    code = (
        "import pathlib; from streamlit.testing.v1 import AppTest\n"
        "for path in [*sorted(pathlib.Path('pages').glob('*.py')), "
        "pathlib.Path('web/navigation.py')]:\n"
        "    page = AppTest.from_file(str(path.resolve()), default_timeout=600).run()\n"
        "    assert not page.exception, (path, page.exception)\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_is_asked(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    asked = ["--lengths", "128", "--trials", "1", "--dtype", "fp32", "--device", "cpu", "--json"]
    done = run(
        tmp_path, "-m", "hybrid_core", "niah", "--checkpoint", str(save_tiny_llama(folder)), *asked
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"


NOT_INSTALLED = (
    "HYBRID_KERNELS: 'ssd=mamba_ssm' - mamba_ssm is not installed; `sh "
    "tools/install-mamba.sh .venv` installs it, "
    "and it runs on a CUDA device"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["niah mamba-100m --budget 5", "profile mamba-100m", "probes mamba-100m", "calibrate"],
)
def test_a_kernel_that_is_not_installed_is_one_line_with_its_command(
    tmp_path: Path, command: str
) -> None:
    done = run(tmp_path, "-m", "hybrid_core", *command.split(), HYBRID_KERNELS="ssd=mamba_ssm")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", NOT_INSTALLED + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "button"),
    [
        ("retrieval", "Start needle test"),
        ("profile", "Start profile"),
        ("compose", "Profile this design"),
        ("compose", "Test retrieval"),
    ],
)
def test_the_page_says_the_same_line(tmp_path: Path, page: str, button: str) -> None:
    code = (
        "from streamlit.testing.v1 import AppTest\n"
        f"page = AppTest.from_file('pages/{page}.py', default_timeout=600).run()\n"
        f"next(button for button in page.button if button.label == '{button}').click().run()\n"
        "print(len(page.exception), *(error.value for error in page.error))"
    )
    done = run(tmp_path, "-c", code, HYBRID_KERNELS="ssd=mamba_ssm")
    without_escapes = re.sub(r"\\(.)", r"\1", done.stdout)
    assert without_escapes == f"0 {NOT_INSTALLED}\n", done.stderr


@pytest.mark.slow
def test_mamba_ssm_finds_all_that_it_imports_where_the_app_installs_it(tmp_path: Path) -> None:
    """It is installed without its dependencies, and imports transformers and einops as soon as one
    of its operations is asked for."""
    script = (ROOT / "tools" / "install-mamba.sh").read_text()
    beside = [Requirement(name) for name in re.findall(r"[a-z]+==[\d.]+", script)]
    kept = closure(required("requirements.txt") + beside) | {"mamba-ssm"}
    code = (
        "from kernels.ssd.mamba_ssm_kernel import operation; "
        "print(operation('ssd_combined', 'mamba_chunk_scan_combined').__name__)"
    )
    done = run(tmp_path, "-c", code, kept=kept)
    assert done.stdout == "mamba_chunk_scan_combined\n", done.stderr
    done = run(tmp_path, "-c", code, kept=kept - {"einops"})
    assert done.stderr.splitlines()[-1].endswith(
        "mamba_ssm cannot be imported: No module named 'einops'; `sh "
        "tools/install-mamba.sh .venv` installs it"
    )


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (
            "postgresql+psycopg://me:secret@host/runs",
            "`pip install 'psycopg[binary]'` installs it",
        ),
        (
            "postgresql+psycopg2://me:secret@host/runs",
            "`pip install 'psycopg2-binary'` installs it",
        ),
        ("oracle9://me:secret@host/runs", "Can't load plugin: sqlalchemy.dialects:oracle9"),
        ("me:secret@host", "must look like postgresql+psycopg://user@host/database"),
        ("sqlite:////no/such/folder/runs.db", "unable to open database file"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line(
    tmp_path: Path, address: str, says: str
) -> None:
    done = run(tmp_path, "-m", "hybrid_core", "runs", HYBRID_DATABASE_URL=address)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert (
        done.stderr.startswith("HYBRID_DATABASE_URL: ")
        and says in done.stderr
        and "secret" not in done.stderr
    )


def test_a_compiled_decode_without_a_compiler_is_one_line(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "-m",
        "hybrid_core",
        "profile",
        "mamba-100m",
        "--decode",
        "compiled",
        CXX="no-such-compiler",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "decode: 'compiled' - needs a C++ compiler, and none is found; `apt-get "
        "install g++` installs one\n"
    )

"""The package: what pyproject.toml asks for, and a wheel that works from any folder."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hybrid_core import __version__, data, extras
from hybrid_core.cli import app
from hybrid_core.cli.main import main
from tests.app_environment import HIDE, ROOT, closure, outside, required

ONE_LINER = (
    "import hybrid_core as h; "
    "print(h.cost(h.presets.get('inter-1to5-1b'), context_len=8192).cache_bytes.exact)"
)


@cache
def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def asked(*groups: str) -> list[Requirement]:
    """What the package and these extras ask for."""
    lines = list(project()["dependencies"])
    for group in groups:
        lines += project()["optional-dependencies"][group]
    return [Requirement(line) for line in lines]


def by_name(requirements: list[Requirement]) -> dict[str, Requirement]:
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


# A requirements file pins what an extra allows.
PINNED = {
    "requirements.txt": by_name(asked("live", "app")),
    "requirements-dev.txt": {
        canonicalize_name(Requirement(line).name): Requirement(line)
        for line in project()["optional-dependencies"]["dev"]
    },
}


@pytest.mark.parametrize("file", PINNED)
def test_a_requirements_file_pins_what_the_package_asks_for_and_nothing_else(file: str) -> None:
    pins = by_name(required(file))
    assert pins.keys() == PINNED[file].keys()
    for name, pin in pins.items():
        [version] = [part.version for part in pin.specifier]
        assert PINNED[file][name].specifier.contains(version), pin
        assert str(pin.marker) == str(PINNED[file][name].marker)


def test_every_extra_that_a_command_asks_for_exists_and_brings_its_modules() -> None:
    for extra, modules in extras.MODULES.items():
        names = set(by_name(asked(extra)))
        assert set(modules) <= names


def test_the_data_are_found_in_a_checkout() -> None:
    assert data.HOME == ROOT and data.APP.is_file()


def test_app_becomes_the_server_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: calls.append(arguments))
    assert main(["app", "--port", "8600"]) == 0
    server = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py")]
    assert calls == [[*server, "--server.port", "8600"]]


def test_app_without_its_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    assert main(["app"]) == 2
    line = "app: streamlit is not installed - `pip install 'hybrid-explorer[app]'` installs it\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("port", [0, -1, app.MOST_PORTS + 1])
def test_a_port_that_does_not_exist_is_refused(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"port: {port} - ")


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network and laid out as pip lays it out."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(place), str(ROOT)], cwd=place, check=True)
    [wheel] = place.glob("hybrid_explorer-*.whl")
    assert wheel.name == f"hybrid_explorer-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place


def from_the_wheel(
    unpacked: Path, *arguments: str, hidden: dict[str, list[str]]
) -> subprocess.CompletedProcess[str]:
    """`python *arguments` in another folder, with the wheel's path and what is not hidden."""
    (unpacked / "hide").mkdir(exist_ok=True)
    (unpacked / "hide" / "sitecustomize.py").write_text(HIDE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(unpacked / "hide"), str(unpacked / "site")]),
        "HYBRID_DATA_DIR": str(unpacked / "data"),
        "HIDDEN_FROM_THE_APP": json.dumps(hidden),
    }
    (unpacked / "elsewhere").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=unpacked / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_gives_the_cache_of_a_preset_with_the_cores_packages_alone(
    unpacked: Path,
) -> None:
    hidden = outside(closure(asked()))
    assert {"torch", "streamlit"} <= set(hidden["modules"])
    done = from_the_wheel(unpacked, "-c", ONE_LINER, hidden=hidden)
    # Counted by hand in test_library.py.
    assert (done.returncode, done.stdout) == (0, "45376000\n"), done.stderr


COMMANDS = [
    ["presets", "--json"],
    ["cost", "Jamba-v0.1", "--quality"],
    ["export", "llama-1b", "--to", "hf", "-o", "out"],
    ["advice", "inter-1to5-1b"],
    ["runs"],
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_wheels_commands_run_with_the_cores_packages_alone(
    unpacked: Path, command: list[str]
) -> None:
    hidden = outside(closure(asked()))
    done = from_the_wheel(unpacked, "-m", "hybrid_core", *command, hidden=hidden)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["profile", "llama-1b"], "live"),
        (["niah", "llama-1b"], "live"),
        (["probes", "llama-1b"], "live"),
        (["calibrate"], "live"),
        (["app"], "app"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_command_that_lacks_its_extra_says_so_in_one_line(
    unpacked: Path, command: list[str], extra: str
) -> None:
    hidden = outside(closure(asked()))
    done = from_the_wheel(unpacked, "-m", "hybrid_core", *command, hidden=hidden)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{command[0]}: ")
    assert f"`pip install 'hybrid-explorer[{extra}]'` installs it" in done.stderr


@pytest.mark.slow
def test_the_wheels_pages_open(unpacked: Path) -> None:
    home = unpacked / "site" / "hybrid_core" / "_data"
    assert (home / ".streamlit" / "config.toml").is_file()
    code = (
        f"import sys; sys.path.insert(0, {str(home)!r})\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"page = AppTest.from_file({str(home / 'web' / 'navigation.py')!r}, default_timeout=600)\n"
        "page.run()\n"
        "assert not page.exception, page.exception\n"
        "import hybrid_core, pages.parts.browser as browser\n"
        "print(hybrid_core.__file__, browser.STATIC)\n"
    )
    hidden = outside(closure(asked("app")))
    done = from_the_wheel(unpacked, "-c", code, hidden=hidden)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(unpacked)) == 2

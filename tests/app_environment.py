"""Runs code as a user runs the app: with the distributions that requirements.txt brings, and
without the developers' others.

The tests' own environment has more packages, which hide what the app lacks. Here a subprocess gets
a `sitecustomize` whose path finder does not see the modules and the metadata of any distribution
outside the closure of the requirements."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution, distributions, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

HIDE = '''
import json, os, sys
from importlib.machinery import PathFinder

hidden = json.loads(os.environ["HIDDEN_FROM_THE_APP"])

class AppsPathFinder(PathFinder):
    """The usual finder, for which what is hidden is not installed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in hidden["modules"]:
            return None
        return super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, *context):
        for found in super().find_distributions(*context):
            if found.name not in hidden["distributions"]:
                yield found

sys.meta_path[:] = [AppsPathFinder if finder is PathFinder else finder for finder in sys.meta_path]
'''


def required(file: str) -> list[Requirement]:
    """What a requirements file of this repository asks for."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """The canonical names of the requirements' distributions and of all that they need here, extras
    and markers heeded.

    Raises PackageNotFoundError for one that is not installed.
    """
    found: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) in found:
                continue
            found.add((name, wanted))
            waiting += [(Requirement(line), wanted) for line in distribution(name).requires or []]
    return {name for name, _ in found}


def outside(kept: set[str]) -> dict[str, list[str]]:
    """The distributions that are installed and not kept, and the top-level modules that no kept one
    brings."""
    by_module = packages_distributions()
    modules = [
        module
        for module, owners in by_module.items()
        if kept.isdisjoint(map(canonicalize_name, owners))
    ]
    names = {found.name for found in distributions()}
    return {
        "modules": sorted(modules),
        "distributions": sorted(name for name in names if canonicalize_name(name) not in kept),
    }


def run(
    place: Path, *arguments: str, kept: set[str] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python *arguments` in the app's environment, with a data folder under `place`; the jobs that
    it starts are in it too."""
    site = place / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(HIDE)
    hidden = outside(closure(required("requirements.txt")) if kept is None else kept)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "HYBRID_DATA_DIR": str(place / "data"),
        "HIDDEN_FROM_THE_APP": json.dumps(hidden),
    }
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment | env,
        capture_output=True,
        text=True,
        check=False,
    )

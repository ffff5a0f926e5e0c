"""Every number that is shown says where it comes from, and the function it names exists."""

import ast
from pathlib import Path

import pytest

from hybrid_core.design import presets
from hybrid_core.report.numbers import of_design
from hybrid_core.report.sources import explained, origins
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.workload import Workload
from pages.parts.numbers import KEY_NUMBERS

ROOT = Path(__file__).resolve().parents[2]


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file, methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in methods}
    return found


@pytest.mark.parametrize("key", origins())
def test_the_function_that_works_a_number_out_exists(key: str) -> None:
    file, _, name = origins()[key].where.partition(":")
    assert name in names_in(ROOT / file)


def sources_in(file: str) -> set[str]:
    """The keys that the source of a file gives to `Number`, `explained` or a card: every plain
    word among its strings that is a key."""
    words = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
    return words & set(origins())


def test_every_number_of_a_design_and_every_key_number_has_an_entry() -> None:
    spec, device = presets.get("inter-1to5-1b").spec, hardware.get("h100_sxm")
    found = of_design(spec, cost(spec, Workload(), device), device)
    assert {number.source for number in found} <= set(origins())
    assert {key.source for key in KEY_NUMBERS} <= set(origins())


def test_every_entry_is_shown_somewhere() -> None:
    shown = {key.source for key in KEY_NUMBERS}
    for file in ("hybrid_core/report/numbers.py", "pages/profile.py", "pages/parts/needles.py"):
        shown |= sources_in(file)
    also = {"parameters_active", "forward_flops", "cache_paged"}  # of `cost` and of the JSON alone
    assert set(origins()) == shown | also


def test_the_question_mark_says_convention_formula_function_and_source() -> None:
    said = explained("decode_flops", "batch 4")
    assert said.startswith("Batch 4\n\nexact: every matrix product")
    assert "$\\displaystyle C_{decode}(T) = " in said
    assert "`hybrid_core/costs/model.py:ModelCosts" in said
    assert said.endswith("(live/profiling/trace.py)")

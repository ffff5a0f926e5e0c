"""The habits of CONTRIBUTING.md that no linter knows: short files, and one thought a statement."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for package in ("hybrid_core", "kernels", "pages", "web")
    for path in sorted((ROOT / package).rglob("*.py"))
]
MOST_LINES = 450
DENSE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp)


def own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """What a statement is made of, without the statements inside it."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        inside = ast.iter_child_nodes(node)
        waiting += [child for child in inside if not isinstance(child, ast.stmt)]


def dense_statements(source: str) -> Iterator[int]:
    """The lines of statements with more than one comprehension or ternary."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            found = [part for part in own_expressions(node) if isinstance(part, DENSE)]
            if len(found) > 1:
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_holds_one_thought_a_statement(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    dense = sorted(dense_statements(source))
    assert not dense, f"more than one comprehension or ternary in lines {dense}"

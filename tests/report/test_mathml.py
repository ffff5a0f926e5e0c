"""Formulas as MathML: what the field's notation looks like in a report."""

from xml.etree import ElementTree

import pytest

from hybrid_core.report.mathml import mathml
from hybrid_core.report.sources import origins

WRITTEN = [
    (r"B \, P", '<mi>B</mi><mspace width="0.17em"></mspace><mi>P</mi>'),
    (r"d_{model}", "<msub><mi>d</mi><mrow><mi>model</mi></mrow></msub>"),
    (r"N^{FFN}_l", "<msubsup><mi>N</mi><mi>l</mi><mrow><mi>FFN</mi></mrow></msubsup>"),
    (r"\frac{1}{2.5}", "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2.5</mn></mrow></mfrac>"),
    (
        r"\sum_{l=1}^{L} l",
        "<munderover><mo>∑</mo><mrow><mi>l</mi><mo>=</mo><mn>1</mn></mrow>"
        "<mrow><mi>L</mi></mrow></munderover><mi>l</mi>",
    ),
    (r"\int_P^T", "<msubsup><mo>∫</mo><mi>P</mi><mi>T</mi></msubsup>"),
    (r"\bar{a}", '<mover accent="true"><mrow><mi>a</mi></mrow><mo>¯</mo></mover>'),
    (r"1 \text{ if tied}", "<mn>1</mn><mtext>\N{NO-BREAK SPACE}if\N{NO-BREAK SPACE}tied</mtext>"),
    (
        r"\left\lceil T \right\rceil",
        '<mo stretchy="true">⌈</mo><mi>T</mi><mo stretchy="true">⌉</mo>',
    ),
    ("x_{<i}", "<msub><mi>x</mi><mrow><mo>&lt;</mo><mi>i</mi></mrow></msub>"),
]


@pytest.mark.parametrize(("latex", "row"), WRITTEN)
def test_a_formula_is_written_as_mathml(latex: str, row: str) -> None:
    assert mathml(latex) == f'<math display="block"><mrow>{row}</mrow></math>'


@pytest.mark.parametrize("key", origins())
def test_the_formula_of_every_number_is_whole_and_keeps_no_latex(key: str) -> None:
    formula = ElementTree.fromstring(mathml(origins()[key].formula))
    text = "".join(formula.itertext())
    assert not set(text) & set("\\_^")
    # Each fraction has a numerator and a denominator, and both have content.
    for fraction in formula.iter("mfrac"):
        assert [len(part) > 0 for part in fraction] == [True, True]


@pytest.mark.parametrize("latex", [r"\alpha", r"\frac{1}{2", r"x_", "a}", r"\text x"])
def test_latex_that_is_not_known_or_not_closed_is_refused(latex: str) -> None:
    with pytest.raises(ValueError, match="formula: "):
        mathml(latex)

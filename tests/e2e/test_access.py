"""What everybody can read: contrast in both themes, a small window or a large zoom, the keyboard, a
report on a phone and on paper."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from hybrid_core.design import presets
from hybrid_core.report.html import report
from hybrid_core.runs.schema import sqlite_address
from hybrid_core.runs.store import RunStore
from tests.e2e.conftest import serve, visit, visitor

PAGES = ("", "compare?with=llama-1b", "profile", "retrieval", "paper", "models", "runs", "glossary")

# Of every text in sight its contrast with what lies behind it (WCAG 2.2, 1.4.3). Words on a chart's
# own marks and a slider's value, which stand on no box of their own, are left to the eye; what is
# disabled is free.
FAINT = """() => {
  const parse = c => {
    const m = c.match(/[\\d.]+/g)
    return m ? [...m.slice(0, 3).map(Number), Number(m[3] ?? 1)] : [0, 0, 0, 0]
  }
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1])
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  const light = c => {
    const f = c.slice(0, 3).map(linear)
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2] }
  const left = 'script, style, noscript, [disabled], [aria-disabled=true], '
    + '.bartext, .heatmap-label, [data-testid=stSlider]'
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement
    if (!text || text == '■' || e.closest(left)) continue
    const box = e.getBoundingClientRect(), style = getComputedStyle(e)
    const svg = e.namespaceURI.includes('svg')
    if (!box.width || !box.height || style.visibility == 'hidden') continue
    let behind = [255, 255, 255, 1], opacity = 1
    const above = []
    for (let n = e; n; n = n.parentElement) {
      opacity *= getComputedStyle(n).opacity
      above.unshift(parse(getComputedStyle(n).backgroundColor))
    }
    for (const colour of above) behind = over(colour, behind)
    const ink = parse(svg ? style.fill : style.color)
    const [a, b] = [light(over([...ink.slice(0, 3), ink[3] * opacity], behind)), light(behind)]
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    const size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700)
    if (contrast < (large ? 3 : 4.5)) faint.push(contrast.toFixed(2) + ' ' + text.slice(0, 40))
  }
  return faint
}"""


# By how many pixels a page is wider than its window.
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def eventually(page: Page, script: str, state: str) -> Any:
    """What a script finds once it is as `state` says, e.g. "found <= 0": colours fade in, and
    charts follow a window's new width.

    Where it never is, what it finds in the end.
    """
    with suppress(TimeoutError):
        page.wait_for_function(f"() => {{ const found = ({script})(); return {state} }}")
    return page.evaluate(script)


def overflow(page: Page) -> int:
    """By how many pixels a page is wider than its window, once it stands still."""
    return int(eventually(page, OVERFLOW, "found <= 0"))


def faint(page: Page) -> list[str]:
    """The texts with too little contrast, once the page stands still."""
    return list(eventually(page, FAINT, "found.length == 0"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast(browser: Browser, server: str, theme: Any) -> None:
    with visitor(browser, height=1200, theme=theme) as page:
        for path in PAGES:
            visit(page, f"{server}/{path}")
            if path.startswith("compare"):
                # The YAML's diff is coloured late.
                expect(page.locator(".token").first).to_be_visible()
            assert faint(page) == [], path or "compose"


def test_every_page_fits_a_narrow_window(page: Page, server: str) -> None:
    for path in PAGES:
        page.set_viewport_size({"width": 800, "height": 1000})
        visit(page, f"{server}/{path}")
        assert overflow(page) <= 0, path or "compose"
        page.set_viewport_size({"width": 320, "height": 1000})  # what 1,280 pixels are at 400 %
        assert overflow(page) <= 0, path or "compose"


def test_a_new_server_may_be_visited_at_any_page(browser: Browser, tmp_path: Path) -> None:
    with serve(tmp_path) as address, visitor(browser) as page:
        visit(page, f"{address}/models")
        expect(page.get_by_role("heading", name="Published models")).to_be_visible()
        # Our own pages, not those that Streamlit would make of a folder.
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(8)


@pytest.fixture
def written(tmp_path: Path) -> str:
    """The address of a report of two runs."""
    store = RunStore(sqlite_address(tmp_path / "runs.db"))
    runs = [
        store.get(store.create("profile", presets.get(name).spec, {}, "cpu"))
        for name in ("inter-1to5-1b", "llama-1b")
    ]
    file = tmp_path / "report.html"
    file.write_text(report(runs), "utf-8")
    return file.as_uri()


def test_a_report_fits_a_phone_and_paper(page: Page, written: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(written)
    expect(page.locator(".main-svg").first).to_be_visible()
    assert overflow(page) <= 0
    cut = "e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX == 'hidden'"
    assert (
        page.locator("figcaption, figure p, .card, .card *").evaluate_all(
            f"all => all.filter({cut}).map(e => e.innerText)"
        )
        == []
    )
    words = ".xtitle, .ytitle, .xtick text, .ytick text, .legendtext, .bartext, .annotation-text"
    outside = """all => all.map(e => [e.getBoundingClientRect(), e.textContent])
        .filter(([box, _]) => box.width && (box.left < 0 || box.right > innerWidth))
        .map(([_, text]) => text)"""
    assert page.locator(words).evaluate_all(outside) == []
    page.emulate_media(media="print")
    expect(page.locator(".modebar").first).to_be_hidden()
    assert (
        page.locator("figure").evaluate_all(
            "all => all.filter(e => getComputedStyle(e).breakInside != 'avoid').length"
        )
        == 0
    )

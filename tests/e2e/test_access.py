"""What everybody can read: contrast in both themes, a small window or a large zoom, the keyboard, a report on a phone and on paper."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from hybrid_core import presets
from hybrid_core.report.html import report
from hybrid_core.runs.store import RunStore
from tests.e2e.conftest import serve

PAGES = ("", "compare?with=llama-1b", "profile", "retrieval", "paper", "models", "runs", "glossary")

# Of every text in sight its contrast with what lies behind it (WCAG 2.2, 1.4.3). Words on a chart's own marks and a slider's value, which
# stand on no box of their own, are left to the eye; what is disabled is free.
FAINT = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g); return m ? [...m.slice(0, 3).map(Number), Number(m[3] ?? 1)] : [0, 0, 0, 0] }
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1])
  const light = c => { const f = c.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2] }
  const left = 'script, style, noscript, [disabled], [aria-disabled=true], .bartext, .heatmap-label, [data-testid=stSlider]'
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement
    if (!text || text == '■' || e.closest(left)) continue
    const box = e.getBoundingClientRect(), style = getComputedStyle(e), svg = e.namespaceURI.includes('svg')
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
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700)
    if (contrast < (large ? 3 : 4.5)) faint.push(contrast.toFixed(2) + ' ' + text.slice(0, 40))
  }
  return faint
}"""


def overflow(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def visit(page: Page, address: str) -> None:
    """Open a page and wait until it stands still."""
    page.goto(address)
    expect(page.get_by_role("heading").first).to_be_visible()
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    expect(page.locator(".chart[aria-busy=true]")).to_have_count(0)
    page.wait_for_timeout(1200)
    assert page.get_by_test_id("stException").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast(browser: Browser, server: str, theme: Any) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1200}, color_scheme=theme)
    for path in PAGES:
        visit(page, f"{server}/{path}")
        if path.startswith("compare"):
            expect(page.locator(".token").first).to_be_visible()  # the YAML's diff is coloured late
        assert page.evaluate(FAINT) == [], path or "compose"
    page.close()


def test_every_page_fits_a_narrow_window(page: Page, server: str) -> None:
    for path in PAGES:
        page.set_viewport_size({"width": 800, "height": 1000})
        visit(page, f"{server}/{path}")
        assert overflow(page) <= 0, path or "compose"
        page.set_viewport_size({"width": 320, "height": 1000})  # what 1,280 pixels are at 400 %
        page.wait_for_timeout(500)
        assert overflow(page) <= 0, path or "compose"


def test_a_new_server_may_be_visited_at_any_page(browser: Browser, tmp_path: Path) -> None:
    with serve(tmp_path) as address:
        page = browser.new_page()
        visit(page, f"{address}/models")
        expect(page.get_by_role("heading", name="Published models")).to_be_visible()
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(8)  # ours, not what Streamlit makes of a folder
        page.close()


@pytest.fixture
def written(tmp_path: Path) -> str:
    """The address of a report of two runs."""
    store = RunStore(f"sqlite:///{tmp_path / 'runs.db'}")
    runs = [store.get(store.create("profile", presets.get(name).spec, {}, "cpu")) for name in ("inter-1to5-1b", "llama-1b")]
    file = tmp_path / "report.html"
    file.write_text(report(runs), "utf-8")
    return file.as_uri()


def test_a_report_fits_a_phone_and_paper(page: Page, written: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(written)
    expect(page.locator(".main-svg").first).to_be_visible()
    assert overflow(page) <= 0
    cut = "e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX == 'hidden'"
    assert page.locator("figcaption, figure p, .card, .card *").evaluate_all(f"all => all.filter({cut}).map(e => e.innerText)") == []
    words = ".xtitle, .ytitle, .xtick text, .ytick text, .legendtext, .bartext, .annotation-text"
    outside = """all => all.map(e => [e.getBoundingClientRect(), e.textContent])
        .filter(([box, _]) => box.width && (box.left < 0 || box.right > innerWidth)).map(([_, text]) => text)"""
    assert page.locator(words).evaluate_all(outside) == []
    page.emulate_media(media="print")
    expect(page.locator(".modebar").first).to_be_hidden()
    assert page.locator("figure").evaluate_all("all => all.filter(e => getComputedStyle(e).breakInside != 'avoid').length") == 0

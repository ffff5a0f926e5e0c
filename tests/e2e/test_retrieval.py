"""The Retrieval page in a real browser: a map fills in, and one that is cancelled keeps its cells."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from hybrid_core import link
from tests.designs import design
from tests.e2e.conftest import serve

ROW, CONTEXTS = 11, 3  # depths; contexts of 128, 192 and 256 tokens: an unfinished proxy is asked no further than it was trained


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server without runs; so small a proxy trains fastest on one thread."""
    with serve(tmp_path, OMP_NUM_THREADS="1") as address:
        yield address


def cells(page: Page, run: int) -> Locator:
    """The cells of a run's map that are drawn."""
    return page.locator(f".st-key-map-{run} .heatmap-label")


def fill(page: Page, label: str, value: int) -> None:
    """Type a number into a field."""
    field = page.get_by_role("spinbutton", name=label)
    field.fill(str(value))
    field.press("Enter")


def until_cells(page: Page, run: int, more_than: int) -> int:
    """Wait until a run's map has more cells; how many it has then."""
    for _ in range(300):
        if (n := cells(page, run).count()) > more_than:
            return n
        page.wait_for_timeout(100)
    raise AssertionError(f"the map of run {run} stays at {more_than} cells")


def start(page: Page, run: int) -> None:
    """Start a needle test and wait until it is the one on show."""
    page.get_by_role("button", name="Start needle test").click()
    expect(page.get_by_role("heading", name=f"Run {run}: one layer")).to_be_visible()


def test_a_map_fills_in_and_a_cancelled_one_keeps_its_cells(page: Page, server: str) -> None:
    page.goto(f"{server}/?design={link.encode(design('A', name='one layer'))}")
    expect(page.get_by_role("heading", name="one layer")).to_be_visible()
    page.get_by_role("button", name="Test retrieval").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Run 1: one layer, cancelled")).to_be_visible()

    page.get_by_text("Size of the proxy, trials").click()
    for label, value in {"Time budget (s)": 5, "d_model of the proxy": 32, "Trained length (tokens)": 256, "Trials a cell": 2500}.items():
        fill(page, label, value)
    start(page, 2)
    first = until_cells(page, 2, 0)
    assert first < ROW * CONTEXTS
    assert until_cells(page, 2, first) > first
    expect(page.get_by_role("heading", name="Run 2: one layer, done")).to_be_visible()
    expect(page.get_by_text("an unfinished proxy, not a finding")).to_be_visible()
    expect(page.get_by_text("#2 one layer: needles recalled, not learnt").first).to_be_visible()
    expect(cells(page, 2)).to_have_count(ROW * CONTEXTS)

    start(page, 3)
    until_cells(page, 3, 0)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Run 3: one layer, cancelled")).to_be_visible()
    said = page.get_by_text("finished cells. It had not learnt its trained length").inner_text()
    kept = int(said.removeprefix("Stopped with ").split()[0])
    assert kept in (ROW, 2 * ROW)
    expect(cells(page, 3)).to_have_count(kept)

"""The Retrieval page in a real browser: a map fills in, and one that is cancelled keeps its
cells."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from hybrid_core.interop import link
from hybrid_core.runs.store import RunStore
from tests.designs import design
from tests.e2e.conftest import confirm_cancel, serve, visit, whole
from tests.jobs import kept_alive, suspend

ROW = 11  # depths
# 128, 192 and 256 tokens. An unfinished proxy is not asked beyond what it was trained on.
CONTEXTS = 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server without runs; so small a proxy trains fastest on one thread."""
    with serve(tmp_path, OMP_NUM_THREADS="1") as address:
        yield address


@pytest.fixture
def store(server: str, tmp_path: Path) -> RunStore:
    """The server's runs."""
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)  # the server makes it at the first visit
    return RunStore(f"sqlite:///{data / 'runs.db'}")


def cells(page: Page, run: int) -> Locator:
    """The cells of a run's map that are drawn."""
    return page.locator(f".st-key-map-{run} .heatmap-label")


def fill(page: Page, label: str, value: int) -> None:
    """Type a number into a field."""
    field = page.get_by_role("spinbutton", name=label)
    field.fill(str(value))
    field.press("Enter")


def start(page: Page, run: int) -> None:
    """Start a needle test and wait until it is the one on show."""
    page.get_by_role("button", name="Start needle test", exact=True).click()
    expect(page.get_by_role("heading", name=f"Run {run}: one layer")).to_be_visible()


@contextmanager
def stopped_at(store: RunStore, run: int, more_than: int) -> Iterator[int]:
    """Stop a run's process once its map has more cells than given and it has said so, which is what
    the page follows; gives how many."""
    while stored(store, run) <= more_than:
        assert store.get(run).active
        time.sleep(0.01)
    process = suspend(store, run)
    while not said(store, run):
        process.resume()
        time.sleep(0.01)
        process = suspend(store, run)
    with kept_alive(store, run):
        yield stored(store, run)
    if process.is_running():
        process.resume()


def said(store: RunStore, run: int) -> bool:
    """Whether the message of a run is of the last row of its map: a row is stored first and told
    then."""
    kept = store.get(run)
    return f"{kept.parts['map']['cells'][-1]['context_len']:,} tokens" in kept.message


def stored(store: RunStore, run: int) -> int:
    """How many cells of a run's map are finished."""
    return len(store.get(run).parts.get("map", {}).get("cells", []))


def test_a_map_fills_in_and_a_cancelled_one_keeps_its_cells(
    page: Page, server: str, store: RunStore
) -> None:
    visit(page, f"{server}/?design={link.encode(design('A', name='one layer'))}")
    expect(page.get_by_role("heading", name="one layer", level=1)).to_be_visible()
    page.get_by_role("button", name="Test retrieval", exact=True).click()
    confirm_cancel(page, 1)
    expect(page.get_by_role("heading", name="Run 1: one layer, cancelled")).to_be_visible()

    page.get_by_text("Size of the proxy, trials").click()
    for label, value in {
        "Time budget (s)": 30,
        "d_model of the proxy": 32,
        "Trained length (tokens)": 256,
        "Trials per cell": 1500,
    }.items():
        fill(page, label, value)
    whole(page)
    start(page, 2)
    with stopped_at(store, 2, 0) as first:
        assert first < ROW * CONTEXTS
        expect(cells(page, 2)).to_have_count(first)
    with stopped_at(store, 2, first) as more:
        expect(cells(page, 2)).to_have_count(more)
    expect(page.get_by_role("heading", name="Run 2: one layer, done")).to_be_visible()
    expect(page.get_by_text("an unfinished proxy, not a finding")).to_be_visible()
    expect(page.get_by_text("#2 one layer: needles recalled, not learnt").first).to_be_visible()
    # The time of the stops counts, too, so the last row may be missing.
    expect(cells(page, 2)).to_have_count(stored(store, 2))

    start(page, 3)
    with stopped_at(store, 3, 0) as finished:
        expect(cells(page, 3)).to_have_count(finished)
        confirm_cancel(page, 3)
        expect(page.get_by_role("heading", name="Run 3: one layer, cancelled")).to_be_visible()
    assert finished in (ROW, 2 * ROW)
    expect(
        page.get_by_text(
            f"Stopped with {finished} finished cells. It had not learnt its trained length"
        )
    ).to_be_visible()
    expect(cells(page, 3)).to_have_count(finished)

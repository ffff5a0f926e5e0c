"""Take the pictures of the pages in docs/: `python -m docs.screenshots FOLDER [PAGE ...]`.

Each page is taken 1440 and 800 pixels wide, light and dark. FOLDER is the data folder
(HYBRID_DATA_DIR) whose runs the pages show. Without a PAGE, every page is taken. Needs Chromium and
the packages of requirements-dev.txt."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.app import FLAGS, PORT, chromium, served
from hybrid_core.design import presets
from hybrid_core.interop import link

DOCS = Path(__file__).parent
PAGES = ("compose", "compare", "profile", "retrieval", "paper", "models", "runs", "glossary")
WIDTHS = (1440, 800)
TALLEST = 2600  # pixels
COLOURS = 96  # of a picture, which keeps its file small
COMPARED = ("intra-1to5-1b", "llama-1b")
PATIENCE_MS = 300_000
SETTLE_MS = 2500  # a page that is as high after that long has settled
# The page's script has run, and every chart is drawn.
WHOLE = """document.querySelector('[data-test-script-state=notRunning]') &&
  !document.querySelector('.chart[aria-busy=true], [data-stale=true]')"""


def address(name: str) -> str:
    """The address of a page. Compare has designs beside the worked example."""
    if name == "compose":
        return f"http://localhost:{PORT}/"
    query = ""
    if name == "compare":
        first = presets.get(presets.FIRST).spec
        others = tuple(presets.get(other).spec for other in COMPARED)
        view = link.View(design=first, compared=others)
        query = urlencode(link.to_query(view), doseq=True)
    return f"http://localhost:{PORT}/{name}?{query}"


def height(page: Page) -> int:
    """The height of a page, once it is whole and no longer grows."""
    main = page.get_by_test_id("stMain")
    before = -1
    while True:
        page.wait_for_timeout(SETTLE_MS)
        page.wait_for_function(WHOLE)
        now: int = main.evaluate("element => element.scrollHeight")
        if now == before:
            return now
        before = now


def take(page: Page, path: Path, width: int) -> None:
    """Take a picture as high as the page is."""
    page.set_viewport_size({"width": width, "height": 900})
    page.set_viewport_size({"width": width, "height": min(TALLEST, height(page))})
    height(page)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main(data: str, names: Sequence[str]) -> None:
    """Serve the app and go through its pages."""
    with served(data), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for theme in ("light", "dark"):
            page = browser.new_context(color_scheme=theme).new_page()
            page.set_default_timeout(PATIENCE_MS)
            for name in names:
                page.goto(address(name))
                page.locator("h1").first.wait_for()
                for width in WIDTHS:
                    take(page, DOCS / f"{name}-{width}-{theme}.png", width)
        browser.close()


if __name__ == "__main__":
    folder, *wanted = sys.argv[1:]
    main(folder, wanted or PAGES)

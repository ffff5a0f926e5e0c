"""Takes pictures of every page into docs/, 1440 and 800 pixels wide, light and dark: `python -m
docs.screenshots FOLDER`.

FOLDER is the data folder (HYBRID_DATA_DIR) whose runs the pages show. This needs Chromium and the
packages of requirements-dev.txt."""

import io
import sys
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.app import FLAGS, PORT, chromium, served
from hybrid_core.design import presets
from hybrid_core.interop import link

DOCS = Path(__file__).parent
WIDTHS = (1440, 800)
THEMES = ("light", "dark")
TALLEST = 2600  # pixels; a longer page is cut
PAGES = ("compose", "compare", "profile", "retrieval", "paper", "models", "runs", "glossary")
SPECS = [presets.get(name).spec for name in ("inter-1to5-1b", "intra-1to5-1b", "llama-1b")]
COMPARED = link.View(design=SPECS[0], compared=tuple(SPECS[1:]))
QUERY = {"compare": urlencode(link.to_query(COMPARED), doseq=True)}


def picture(page: Page, path: Path, width: int) -> None:
    """Save a picture as high as the page, in few colours so that the file is small."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(1500)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(TALLEST, height)})
    page.wait_for_timeout(2500)
    taken = Image.open(io.BytesIO(page.screenshot()))
    taken.convert("RGB").quantize(96).save(path, optimize=True)


def main(data: str) -> None:
    """Serve the app and go through its pages."""
    with served(data), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for theme in THEMES:
            page = browser.new_context(color_scheme=theme).new_page()
            for name in PAGES:
                path = name
                if name == "compose":  # the first page has no path
                    path = ""
                query = QUERY.get(name, "")
                page.goto(f"http://localhost:{PORT}/{path}?{query}")
                page.locator("h1").first.wait_for()
                for width in WIDTHS:
                    picture(page, DOCS / f"{name}-{width}-{theme}.png", width)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])

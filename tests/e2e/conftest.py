"""A server of our own and a real Chromium."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.app import FLAGS, chromium

ROOT = Path(__file__).resolve().parents[2]
# Guards against hanging, and nothing that a test measures: a busy machine takes its time.
PATIENCE_S = 120
expect.set_options(timeout=PATIENCE_S * 1000)

# What a toast said, kept: it is gone after four seconds, which a busy machine may be too slow to
# see.
KEEP_TOASTS = """
window.toasts = new Set()
const keep = toast => window.toasts.add(toast.innerText)
new MutationObserver(() => document.querySelectorAll("[data-testid=stToast]").forEach(keep))
  .observe(document, { childList: true, characterData: true, subtree: true })
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@contextmanager
def serve(place: Path, **env: str) -> Iterator[str]:
    """The app on a free port, with a data folder of its own under `place`; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with (place / "log").open("wb") as log:
        env = os.environ | {"HYBRID_DATA_DIR": str(place / "data")} | env
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://localhost:{port}"
    try:
        while not answers(f"{address}/_stcore/health"):
            assert process.poll() is None, (place / "log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def answers(address: str) -> bool:
    """Whether a server is there."""
    try:
        urllib.request.urlopen(address, timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server that tests share keeps its log and data."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(place: Path) -> Iterator[str]:
    """The server that tests share."""
    with serve(place) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh visitor."""
    with visitor(browser) as page:
        yield page


@contextmanager
def visitor(
    browser: Browser, height: int = 1000, theme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """A page of a browser that has not been here before."""
    context = browser.new_context(viewport={"width": 1440, "height": height}, color_scheme=theme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.add_init_script(KEEP_TOASTS)
    yield page
    context.close()


def whole(page: Page) -> None:
    """Wait until the page's script has run, nothing is left of the run before, and every chart is
    drawn."""
    expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_have_count(1)
    expect(page.locator("[data-stale=true]")).to_have_count(0)
    expect(page.locator(".chart[aria-busy=true]")).to_have_count(0)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def visit(page: Page, address: str) -> None:
    """Open a page and wait until it is whole."""
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    whole(page)


def expect_toast(page: Page, text: str) -> None:
    """Wait until a toast has said `text`, whether it is still there or not."""
    page.wait_for_function(
        "text => [...window.toasts].some(toast => toast.includes(text))", arg=text
    )


def confirm_cancel(page: Page, run: int) -> None:
    """Press a job's Cancel and say yes."""
    page.locator(f".st-key-cancel-{run}").get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Yes, cancel", exact=True).click()

"""How fast the app answers: `python -m benchmarks.app`. Needs Chromium and the packages of requirements-dev.txt.

Prints: seconds from starting the server to the first page with numbers and charts; milliseconds from a widget change to new numbers in
the browser (median and p95 of 20); microseconds for one `cost` (closed forms only, nothing remembered).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from hybrid_core import hardware, presets
from hybrid_core.costs.model import model_costs
from hybrid_core.costs.summary import summary
from hybrid_core.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
PORT = 8599
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
VALUE = "[data-testid=stMetric]:has-text('Parameters without embedding') [data-testid=stMetricValue]"


def cost_us() -> float:
    """Median microseconds of the whole summary of a design that was never seen before."""
    device, workload = hardware.get("h100_sxm"), Workload()
    seconds = []
    for name in presets.names() * 3:
        spec = presets.get(name).spec
        model_costs.cache_clear()
        started = time.perf_counter()
        summary(spec, workload, device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


def changes_ms(page: Page) -> list[float]:
    """Twenty changes of the number of layers by keyboard; each until the number on the page has changed."""
    field = page.get_by_label("Layers", exact=True)
    times = []
    for i in range(20):
        before = page.locator(VALUE).inner_text()
        field.fill(str(14 + i))
        started = time.perf_counter()
        field.press("Enter")
        page.wait_for_function("before => document.querySelector('[data-testid=stMetricValue]').innerText != before", arg=before)
        times.append((time.perf_counter() - started) * 1e3)
        page.wait_for_timeout(700)
    return times


def main() -> None:
    """Start the app as `make app` does, drive it, print JSON."""
    chromium = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        started = time.perf_counter()
        command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(PORT)]
        server = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"HYBRID_DATA_DIR": data}, stdout=subprocess.DEVNULL)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://localhost:{PORT}/_stcore/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.02)
            ready = time.perf_counter() - started
            page.goto(f"http://localhost:{PORT}")
            page.locator(VALUE).wait_for()
            numbers = time.perf_counter() - started
            page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 5")
            charts = time.perf_counter() - started
            page.wait_for_timeout(1000)
            times = changes_ms(page)
        finally:
            server.terminate()
            browser.close()
    result = {
        "server_ready_s": round(ready, 2),
        "first_page_with_numbers_s": round(numbers, 2),
        "first_page_with_charts_s": round(charts, 2),
        "change_to_numbers_ms": {"median": round(statistics.median(times)), "p95": round(sorted(times)[18]), "n": len(times)},
        "one_cost_us": round(cost_us()),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

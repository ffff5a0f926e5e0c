"""How fast the app answers: `python -m benchmarks.app`.

It needs Chromium and the packages in requirements-dev.txt, and prints:

- seconds from when the server is ready until the first page shows numbers and charts
- milliseconds from a widget change in a 100-layer design to new numbers, to a new layer stack and
  new visible charts, and to all charts (median and p95 of 20)
- seconds per change while 20 visitors each make one every five seconds (without browsers, which
  would share this machine's cores)
- microseconds for one `cost` (closed forms only, with empty caches)
- whether the server ever loaded torch
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import websockets
from playwright.sync_api import Page, sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.sections import LayersSection
from hybrid_core.interop import link
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.workload import Workload

ROOT = Path(__file__).resolve().parent.parent
PORT = int(os.environ.get("PORT", "8599"))
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
VALUE = ".numbers div:has-text('Parameters without embedding') .value"
DEEP = presets.get(presets.FIRST).spec.replace(
    name="deep", n_layers=100, layers=LayersSection(strategy="inter", ratio="1:5")
)
VISITORS = 20
CHANGES = 6  # of each visitor
PAUSE_S = 5.0  # between two changes of a visitor


def cost_us() -> float:
    """Median microseconds of a `cost` with empty caches, over all presets."""
    device = hardware.get("h100_sxm")
    workload = Workload()
    seconds = []
    for name in presets.names() * 3:
        spec = presets.get(name).spec
        model_costs.cache_clear()
        started = time.perf_counter()
        cost(spec, workload, device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


# True if the stack has one row per layer, and every chart, or every visible one, has been redrawn.
REDRAWN = """([layers, before, all]) =>
  document.querySelectorAll('.stack button').length == layers &&
  [...document.querySelectorAll('.chart')].every((chart, i) =>
    (chart.ariaBusy == 'false' && chart.ariaLabel != before[i]) ||
    (!all && chart.getBoundingClientRect().top > innerHeight))"""


def changes_ms(page: Page) -> list[list[float]]:
    """Twenty changes of the number of layers, typed into the field.

    Returns three lists of times: until a number has changed, the visible charts, and all charts.
    """
    field = page.get_by_label("Layers", exact=True)
    times: list[list[float]] = [[], [], []]
    for i in range(20):
        layers = DEEP.n_layers + 1 + i
        number = page.locator(VALUE).inner_text()
        drawn = page.locator(".chart").evaluate_all("all => all.map(chart => chart.ariaLabel)")
        field.fill(str(layers))
        started = time.perf_counter()
        field.press("Enter")
        page.wait_for_function(
            "before => document.querySelector('.numbers .value').innerText != before", arg=number
        )
        times[0].append((time.perf_counter() - started) * 1e3)
        for everything, seen in enumerate(times[1:]):
            page.wait_for_function(REDRAWN, arg=[layers, drawn, bool(everything)])
            seen.append((time.perf_counter() - started) * 1e3)
        page.wait_for_timeout(700)
    return times


def spread(values: list[float], digits: int = 0) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)) - 1)]
    return {
        "median": round(statistics.median(values), digits),
        "p95": round(p95, digits),
        "n": len(values),
    }


class Visitor:
    """The browser's side of Streamlit's protocol.

    It asks for a page or changes one control, and waits until the script has finished.
    """

    def __init__(self, socket: websockets.ClientConnection, query: str) -> None:
        self.socket = socket
        self.query = query
        self.field = ""

    async def rerun(self, **states: int) -> float:
        """Seconds until the whole page has arrived. Keeps the id of the field called Layers."""
        started = time.perf_counter()
        message = BackMsg()
        message.rerun_script.query_string = self.query
        message.rerun_script.widget_states.widgets.extend(
            WidgetState(id=key, double_value=n) for key, n in states.items()
        )
        await self.socket.send(message.SerializeToString())
        while True:
            answer = ForwardMsg.FromString(await self.socket.recv())
            element = answer.delta.new_element
            if (
                element.WhichOneof("type") == "number_input"
                and element.number_input.label == "Layers"
            ):
                self.field = element.number_input.id
            if answer.WhichOneof("type") == "script_finished":
                return time.perf_counter() - started


async def visit(number: int) -> list[float]:
    """Seconds per change of one visitor, who pauses between changes, after the first page."""
    random.seed(number)
    await asyncio.sleep(random.uniform(0, PAUSE_S))
    seconds = []
    query = f"design={link.encode(DEEP)}"
    async with websockets.connect(
        f"ws://localhost:{PORT}/_stcore/stream", subprotocols=["streamlit"], max_size=None
    ) as socket:  # type: ignore[list-item]
        visitor = Visitor(socket, query)
        await visitor.rerun()
        for change in range(CHANGES):
            await asyncio.sleep(random.uniform(0.8, 1.2) * PAUSE_S)
            seconds.append(await visitor.rerun(**{visitor.field: 101 + number + change}))
    return seconds


async def visits() -> list[float]:
    """Seconds per change, with all visitors active."""
    by_visitor = await asyncio.gather(*map(visit, range(VISITORS)))
    return [second for seconds in by_visitor for second in seconds]


def loads_torch(pid: int) -> bool:
    """Whether a process has loaded torch's shared library."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@contextmanager
def served(data: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The running app, started as by `make app`. `data` is its data folder (default: a new one)."""
    with nullcontext(data) if data else tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(PORT)]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"HYBRID_DATA_DIR": folder},
            stdout=subprocess.DEVNULL,
        )
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://localhost:{PORT}/_stcore/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.02)
            yield server
        finally:
            server.terminate()
            server.wait(10)


def chromium() -> str:
    """The path of the browser."""
    return next(
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    )


def main() -> None:
    """Start the app, drive it, print JSON."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        with served() as server:
            started = time.perf_counter()
            page.goto(f"http://localhost:{PORT}")
            page.locator(VALUE).wait_for()
            numbers = time.perf_counter() - started
            page.wait_for_function(
                "document.querySelectorAll('.chart[aria-busy=false]').length >= 4"
            )
            charts = time.perf_counter() - started
            page.goto(f"http://localhost:{PORT}/?design={link.encode(DEEP)}")
            page.get_by_role("heading", name="deep").wait_for()
            page.wait_for_timeout(3000)
            changed = changes_ms(page)
            browser.close()
            torch = loads_torch(server.pid)
    with served():
        visited = asyncio.run(visits())
    result = {
        "first_page_with_numbers_s": round(numbers, 2),
        "first_page_with_charts_s": round(charts, 2),
        "change_to_numbers_ms": spread(changed[0]),
        "change_to_charts_in_sight_ms": spread(changed[1]),
        "change_to_all_charts_ms": spread(changed[2]),
        f"change_with_{VISITORS}_visitors_s": spread(visited, 2),
        "one_cost_us": round(cost_us()),
        "server_loads_torch": torch,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

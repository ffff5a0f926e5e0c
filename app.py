"""The hybrid architecture explorer: `streamlit run app.py`, or `hybrid-core app`."""

import pkgutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import streamlit as st
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from hybrid_core.design import presets
from hybrid_core.evidence.advice import rules
from hybrid_core.runs.devices import devices
from hybrid_core.runs.jobs import dispatch_in_background
from hybrid_core.speed import hardware
from pages import parts
from pages.parts import browser


@asynccontextmanager
async def loaded(_: st.App) -> AsyncIterator[None]:
    """Load what the pages need before the server says that it is ready, so that the first visitor
    does not wait for it. From then on a thread runs the queue of jobs, whether or not a page is
    open."""
    for module in pkgutil.iter_modules(parts.__path__, f"{parts.__name__}."):
        import_module(module.name)
    presets.ordered()
    rules.rules()
    hardware.catalogue()
    dispatch_in_background()
    threading.Thread(target=devices, daemon=True).start()  # asks torch, which may take seconds
    yield


# The script has its own folder: Streamlit would take a folder `pages` next to it for its own
# navigation.
app = st.App(
    Path(__file__).parent / "web" / "navigation.py",
    lifespan=loaded,
    routes=[Mount(browser.PLACE, StaticFiles(directory=browser.STATIC))],
)

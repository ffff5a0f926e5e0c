"""The hybrid architecture explorer: `streamlit run app.py`."""

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
    """Load what pages need before the server says that it is ready, or the first visitor waits for
    it. The queue of jobs is looked after from then on, whether or not a page is open."""
    for module in pkgutil.iter_modules(parts.__path__, f"{parts.__name__}."):
        import_module(module.name)
    presets.ordered()
    rules.rules()
    hardware.catalogue()
    dispatch_in_background()
    threading.Thread(target=devices, daemon=True).start()  # which asks torch, and may take seconds
    yield


# In a folder of its own: Streamlit takes a folder `pages` beside the script for navigation of its
# own, and imports what is beside it.
app = st.App(
    Path(__file__).parent / "web" / "navigation.py",
    lifespan=loaded,
    routes=[Mount(browser.PLACE, StaticFiles(directory=browser.STATIC))],
)

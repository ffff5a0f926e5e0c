"""The hybrid architecture explorer: `streamlit run app.py`."""

import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

import streamlit as st

from hybrid_core import advice, hardware, presets
from pages import parts


@asynccontextmanager
async def loaded(_: st.App) -> AsyncIterator[None]:
    """Load what pages need before the server says that it is ready, or the first visitor waits for it."""
    for module in pkgutil.iter_modules(parts.__path__, f"{parts.__name__}."):
        import_module(module.name)
    presets.ordered()
    advice.rules()
    hardware.catalogue()
    yield


app = st.App("navigation.py", lifespan=loaded)

"""The parts of a page that run in the browser. Each is one module of web/static."""

from hashlib import sha256
from pathlib import Path

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

STATIC = Path(__file__).parents[2] / "web" / "static"
_CONTENT = b"".join(file.read_bytes() for file in sorted(STATIC.iterdir()))
_VERSION = sha256(_CONTENT).hexdigest()[:12]
# Where app.py serves them. The path changes with their content, so no browser keeps an old version.
PLACE = f"/browser/{_VERSION}"


def component(name: str) -> ComponentRenderer:
    """A Streamlit component that web/static/{name}.js draws. The browser loads it from where
    Streamlit's own scripts come from, so it also works behind a proxy."""
    module = f"""
const sources = [...document.scripts].map(script => script.src)
const ours = sources.find(source => source.includes("/static/js/"))
const module = import(new URL("../..{PLACE}/{name}.js", ours).href)
export default async argument => (await module).default(argument)
"""
    return st.components.v2.component(name, js=module, isolate_styles=False)

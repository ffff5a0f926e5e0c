"""Parts of a page that run in the browser: each is one module of web/static."""

from hashlib import sha256
from pathlib import Path

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

STATIC = Path(__file__).parents[2] / "web" / "static"
# Where app.py serves them: another place whenever one of them has changed, so that no browser keeps
# an old one.
_CONTENT = b"".join(file.read_bytes() for file in sorted(STATIC.iterdir()))
PLACE = f"/browser/{sha256(_CONTENT).hexdigest()[:12]}"


def component(name: str) -> ComponentRenderer:
    """What draws web/static/{name}.js. Its address is where Streamlit's own scripts come from, so
    that it also works behind a proxy."""
    module = f"""
const sources = [...document.scripts].map(script => script.src)
const ours = sources.find(source => source.includes("/static/js/"))
const module = import(new URL("../..{PLACE}/{name}.js", ours).href)
export default async argument => (await module).default(argument)
"""
    return st.components.v2.component(name, js=module, isolate_styles=False)

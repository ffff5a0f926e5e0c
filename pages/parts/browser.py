"""Parts of a page that run in the browser: each is one module of web/static, which the browser keeps until it changes."""

from hashlib import sha256
from pathlib import Path

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

STATIC = Path(__file__).parents[2] / "web" / "static"


def component(name: str) -> ComponentRenderer:
    """What draws web/static/{name}.js. Its address is where Streamlit's own scripts come from, so that it also works behind a proxy."""
    version = sha256((STATIC / f"{name}.js").read_bytes()).hexdigest()[:12]
    module = f"""
const ours = [...document.scripts].map(script => script.src).find(src => src.includes("/static/js/"))
const module = import(new URL("../../browser/{name}.js?{version}", ours).href)
export default async argument => (await module).default(argument)
"""
    return st.components.v2.component(name, js=module, isolate_styles=False)

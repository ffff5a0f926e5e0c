"""Models: published models with quoted and computed figures side by side, each one click from
Compose."""

from collections import Counter

import pandas as pd
import streamlit as st

from hybrid_core.interop import published
from hybrid_core.report import units
from pages.parts import design, jobs, layout

FIGURES = {
    "total": ("parameters", units.count),
    "active": ("active", units.count),
    "cache_8k": ("cache at 8K", units.n_bytes),
}
EXACT = {
    "total": "parameters",
    "embedding": "of embedding and head",
    "non_embedding": "without them",
    "active": "active for a token",
    "cache_8k": "bytes of cache at 8K",
}

design.view()
st.title("Published models")
jobs.strip()
st.markdown(
    "Each design is read from the model's own config.json, by its fields. **Quoted** figures are counted with transformers, or by hand "
    "from the published code where transformers has no class; **computed** ones are this explorer's closed forms. Cache: one sequence of "
    "8,192 tokens, two bytes an element. *Built* models can be profiled and tested here; of the others all costs are known."
)
models = published.models()
rows = {}
for name, model in models.items():
    pairs = {}
    for key, (label, write) in FIGURES.items():
        pairs |= {
            f"{label}, quoted": write(model.quoted[key]),
            f"{label}, computed": write(model.computed[key]),
        }
    differs = [
        f"{EXACT[key]} {value - model.quoted[key]:+,}"
        for key, value in model.computed.items()
        if value != model.quoted[key]
    ]
    level = f"costed: {model.not_built}" if model.not_built else "built"
    rows[name] = pairs | {"difference": ", ".join(differs) or "none", "level": level}
layout.table(pd.DataFrame(rows).T)

row = st.container(horizontal=True, vertical_alignment="bottom")
chosen = row.selectbox("Model", list(models), width=340)
if row.button(f"Start from {chosen}", type="primary", icon=":material/stacks:"):
    design.open_in_compose(models[chosen].spec)
    layout.go("compose")
model = models[chosen]
exact = {
    label: {"quoted": f"{model.quoted[key]:,}", "computed": f"{model.computed[key]:,}"}
    for key, label in EXACT.items()
}
layout.table(pd.DataFrame(exact).T)
kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(model.spec.pattern).items())
st.caption(
    f"layers: {design.plain(model.spec.pattern)} ({kinds})  \nquoted: {design.plain(model.how)}  \nconfig: {design.plain(model.source)}"
)

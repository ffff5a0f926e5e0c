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


def all_models(models: dict[str, published.Model]) -> None:
    """Every model with its main figures, and by how much they differ."""
    rows = {}
    for name, model in models.items():
        row = {}
        for key, (label, write) in FIGURES.items():
            row[f"{label}, quoted"] = write(model.quoted[key])
            row[f"{label}, computed"] = write(model.computed[key])
        row["difference"] = difference(model)
        row["level"] = f"costed: {model.not_built}" if model.not_built else "built"
        rows[name] = row
    layout.table(pd.DataFrame(rows).T)


def difference(model: published.Model) -> str:
    """What computed figures have more or less than the quoted ones, in words."""
    found = []
    for key, computed in model.computed.items():
        more = computed - model.quoted[key]
        if more:
            found.append(f"{EXACT[key]} {more:+,}")
    return ", ".join(found) or "none"


def choose(models: dict[str, published.Model]) -> published.Model:
    """The model that is chosen; a button opens it in Compose."""
    row = st.container(horizontal=True, vertical_alignment="bottom")
    chosen = row.selectbox("Model", list(models), width=340)
    if row.button(f"Start from {chosen}", type="primary", icon=":material/stacks:"):
        design.open_in_compose(models[chosen].spec)
        layout.go("compose")
    return models[chosen]


def in_full(model: published.Model) -> None:
    """Exact figures of one model, its layers and its sources."""
    rows = {}
    for key, label in EXACT.items():
        quoted, computed = model.quoted[key], model.computed[key]
        rows[label] = {"quoted": f"{quoted:,}", "computed": f"{computed:,}"}
    layout.table(pd.DataFrame(rows).T)
    pattern = model.spec.pattern
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(pattern).items())
    st.caption(
        f"layers: {design.plain(pattern)} ({kinds})  \n"
        f"quoted: {design.plain(model.how)}  \n"
        f"config: {design.plain(model.source)}"
    )


design.view()
st.title("Published models")
jobs.strip()
st.markdown(
    "Each design is read from the model's own config.json. **Quoted** figures are counted with "
    "transformers, or by hand from the published code where transformers has no class. "
    "**Computed** ones are this explorer's closed forms. Cache: one sequence of 8,192 tokens, two "
    "bytes an element. *Built* models can be profiled and tested here. Of others only the costs "
    "are known."
)
published_models = published.models()
all_models(published_models)
in_full(choose(published_models))

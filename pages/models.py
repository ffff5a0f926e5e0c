"""Models: published models with quoted and computed figures side by side. A click opens one in
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
    "embedding": "embedding and head",
    "non_embedding": "other parameters",
    "active": "active per token",
    "cache_8k": "bytes of cache at 8K",
}


def _all_models(models: dict[str, published.Model]) -> None:
    """One row per model: its main figures, and by how much they differ."""
    rows = {}
    for name, model in models.items():
        row = {}
        for key, (label, write) in FIGURES.items():
            row[f"{label}, quoted"] = write(model.quoted[key])
            row[f"{label}, computed"] = write(model.computed[key])
        row["difference"] = _difference(model)
        row["level"] = _level(model)
        rows[name] = row
    layout.table(pd.DataFrame(rows).T)


def _difference(model: published.Model) -> str:
    """By how much computed figures differ from the quoted ones."""
    found = []
    for key, computed in model.computed.items():
        more = computed - model.quoted[key]
        if more:
            found.append(f"{EXACT[key]} {more:+,}")
    return ", ".join(found) or "none"


def _level(model: published.Model) -> str:
    """Whether the model can be built here, and if not, which part of it cannot."""
    if model.not_built:
        return f"costs only: {model.not_built}"
    return "built"


def _choose(models: dict[str, published.Model]) -> published.Model:
    """The model that the user picks. A button opens it in Compose."""
    row = st.container(horizontal=True, vertical_alignment="bottom")
    chosen = row.selectbox("Model", list(models), width=340)
    model = models[chosen]
    if row.button(f"Start from {chosen}", type="primary", icon=":material/stacks:"):
        design.open_in_compose(model.spec)
        layout.go("compose")
    return model


def _in_full(model: published.Model) -> None:
    """The exact figures of one model, its layers and its sources."""
    rows = {}
    for key, label in EXACT.items():
        quoted = model.quoted[key]
        computed = model.computed[key]
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
    "**Computed** figures are this explorer's closed forms. The cache is that of one sequence of "
    "8,192 tokens, at two bytes per element. Models that are *built* can be profiled and tested "
    "here. For the others, only the costs are known."
)
models = published.models()
_all_models(models)
_in_full(_choose(models))

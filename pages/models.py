"""Models: published models with quoted and computed figures side by side, each one click from Compose."""

import streamlit as st

from hybrid_core import presets
from hybrid_core.interop.export import sayable
from hybrid_core.report import units
from pages.parts import design, jobs

FIGURES = {
    "total": ("parameters", units.count),
    "non_embedding": ("without embedding", units.count),
    "active": ("active", units.count),
    "cache_8k": ("cache at 8K", units.n_bytes),
}

design.view()
st.title("Published models")
jobs.strip()
st.markdown(
    "Each design is read from the model's own config.json, by its fields. **Quoted** figures are counted with transformers, or by hand from "
    "the published code where transformers has no class; **computed** ones are this explorer's closed forms. Cache: one sequence of 8,192 "
    "tokens, two bytes an element. *Built* models can be profiled and tested here; of the others all costs are known."
)
models = presets.models()
row = st.container(horizontal=True, vertical_alignment="bottom")
name = row.selectbox("Model", list(models), width=340)
if row.button(f"Start from {name}", type="primary", icon=":material/stacks:"):
    design.open_in_compose(models[name].spec)
    st.switch_page("pages/compose.py")

rows = []
for title, model in models.items():
    pairs = {}
    for key, (label, write) in FIGURES.items():
        pairs |= {f"{label}, quoted": write(model.quoted[key]), f"{label}, computed": write(model.computed[key])}
    level = f"costed: {model.not_built}" if model.not_built else "built"
    differs = [f"{key} {value - model.quoted[key]:+,}" for key, value in model.computed.items() if value != model.quoted[key]]
    rows.append({"model": title, "level": level, "difference": ", ".join(differs) or "none"} | pairs)
st.dataframe(rows, hide_index=True, height="content", column_config={"model": st.column_config.TextColumn(pinned=True)})

st.subheader(design.plain(name))
chosen = models[name]
kinds = {kind: sum(kind == other for other in chosen.spec.pattern) for kind in dict.fromkeys(chosen.spec.pattern)}
st.dataframe(
    [
        {"figure": label, "quoted": f"{chosen.quoted[key]:,}", "computed": f"{chosen.computed[key]:,}"}
        for key, (label, _) in (FIGURES | {"cache_8k": ("cache at 8K (bytes)", units.n_bytes)}).items()
    ],
    hide_index=True,
    height="content",
    width=620,
)
st.caption(
    f"layers: {chosen.spec.pattern} ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})  \n"
    f"quoted: {design.plain(chosen.how)}  \nconfig: {design.plain(chosen.source)}"
)
st.caption(f"leaves for: {', '.join(sayable(chosen.spec))}")

"""The controls of Compose, in the order people think. What they hold is the draft."""

from collections import Counter
from collections.abc import Callable
from math import ceil
from pathlib import Path

import streamlit as st

from hybrid_core.costs.model import fit_depth
from hybrid_core.design import placement, presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.glossary import explain
from hybrid_core.interop import published
from hybrid_core.interop.huggingface import parse_config, spec_from_config
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.validation import MAX_DIM, SpecError
from pages.parts import draft, layout, notes, pictures, places

CHUNKS = tuple(2**i for i in range(MAX_DIM.bit_length()))
PAPER_RATIOS = ("0:1", "1:12", "1:5", "1:3", "1:1", "1:0")


def _number(
    label: str,
    path: str,
    step: float = 1,
    term: str = "",
    changed: Callable[[], None] | None = None,
) -> None:
    """A number, whole where its step is whole. An empty box holds None, and the design's own rules
    refuse it."""
    st.number_input(
        label,
        value=None,
        step=step,
        key=draft.field(path),
        help=explain(term or path),
        on_change=changed,
    )


def choice(label: str, path: str, options: tuple[str, ...]) -> None:
    """A select box for one of the form's values."""
    st.selectbox(
        label,
        options,
        key=draft.field(path),
        help=explain(path),
    )


def draw(spec: ArchSpec, said: notes.Notes) -> None:
    """The controls that make a design; `spec` is the last good one, `said` the advice on it."""
    _draw_start()
    _draw_size()
    _draw_layers(spec, said)


def draw_parts(said: notes.Notes) -> None:
    """The dimensions of every kind of layer, folded."""
    letters = draft.strategy_letters()
    st.subheader("Dimensions")
    _fold("Attention", _draw_attention)
    _fold("Sliding window", lambda: _draw_window(said), unfolded="S" in letters)
    _fold("Mamba", _draw_ssm)
    _fold("Intra-hybrid block: sizes", lambda: _draw_intra_sizes(said))
    _fold("Differential layers", _draw_diff, unfolded=bool(letters & set("DN")))
    _fold("Feed-forward", _draw_ffn)
    notes.show(said, "ffn")


def _fold(title: str, content: Callable[[], None], unfolded: bool = False) -> None:
    """Controls behind their title. They are drawn when it is opened, so hidden ones cost no
    time."""
    folder = st.expander(
        title, expanded=unfolded, key=f"fold-{title}-{unfolded}", on_change="rerun"
    )
    if folder.open:
        with folder:
            content()


def _draw_window(said: notes.Notes) -> None:
    _number("window (tokens)", "swa.window")
    _number("sink (tokens)", "swa.sink")
    _number("RoPE theta of the window", "swa.rope_theta", step=1.0)
    notes.show(said, "swa.window")


def _draw_start() -> None:
    st.selectbox(
        "Start from",
        [*presets.ordered(), *published.models()],
        index=None,
        placeholder="a preset or published model",
        key="form.preset",
        on_change=_open_preset,
        help=explain("preset"),
    )
    st.file_uploader(
        "or open a YAML file, or a published config.json", key="form.upload", on_change=_open_upload
    )
    with st.popover("Paste a config.json", icon=":material/content_paste:"):
        st.text_area(
            "As Hugging Face publishes it",
            key="form.pasted",
            height=200,
            placeholder='{"model_type": "jamba", ...}',
        )
        st.button("Open config", key="form.paste", on_click=_open_pasted)


def _open_preset() -> None:
    name = st.session_state["form.preset"]
    if name:
        draft.load(published.resolve(name))
        st.session_state["form.preset"] = None


def _open_upload() -> None:
    upload = st.session_state["form.upload"]
    if upload is None:
        return
    if upload.name.endswith(".json"):
        _open_config(
            upload.getvalue(),
            published.config_name(Path(upload.name)),
            upload.name,
        )
        return
    try:
        draft.load(ArchSpec.from_yaml(upload.getvalue()))
    except SpecError as error:
        st.session_state["form.problem"] = f"{upload.name}: {error}"


def _open_pasted() -> None:
    _open_config(st.session_state["form.pasted"], "pasted", "pasted config")


def _open_config(text: str | bytes, name: str, source: str) -> None:
    """Open a published config as the design, or show in one line what is wrong with it."""
    try:
        draft.load(spec_from_config(parse_config(text), name))
    except SpecError as error:
        st.session_state["form.problem"] = f"{source}: {error}"


def _draw_size() -> None:
    st.subheader("Size")
    st.text_input(
        "Name",
        key=draft.field("name"),
        max_chars=100,
        help=explain("name"),
    )
    left, right = st.columns(2)
    with left:
        _number("d_model", "d_model", step=128)
    with right:
        _number("Layers", "n_layers", changed=_as_many_kinds)
    _number("Vocabulary (tokens)", "vocab_size", step=1024)
    st.toggle(
        "Head shares the embedding",
        key=draft.field("tie_embeddings"),
        help=explain("tie_embeddings"),
    )
    with st.popover("Fit depth", icon=":material/straighten:", help=explain("fit_depth")):
        target = st.number_input(
            "Parameters without embedding (millions)", min_value=1.0, value=973.0, step=10.0
        )
        st.caption("973M is the paper's Llama at 1B")
        st.button(
            "Fit",
            on_click=_fit,
            args=(target * 1e6,),
            key="form.fit",
        )


def _as_many_kinds() -> None:
    """A custom stack grows by its last kind, or loses its last layers."""
    pattern, n_layers = draft.value("layers.pattern"), draft.n_layers()
    st.session_state[draft.field("layers.pattern")] = (pattern + pattern[-1:] * n_layers)[:n_layers]


def _fit(target: float) -> None:
    _place_by_rule()  # layers that are named one by one belong to one depth
    try:
        draft.load(fit_depth(draft.design(), target))
    except ValueError as error:
        st.session_state["form.problem"] = str(error)


def _draw_layers(spec: ArchSpec, said: notes.Notes) -> None:
    st.subheader("Layers")
    choice("Strategy", "layers.strategy", placement.STRATEGIES)
    strategy = draft.value("layers.strategy")
    notes.show(said, "strategy")
    with st.container():
        if strategy == "custom":
            st.caption("Click layers of the stack, or write its letters.")
            if "form.strategy_before" in st.session_state:
                before = st.session_state["form.strategy_before"][0]
                st.button(
                    f"Back to {before}",
                    on_click=draft.back,
                    icon=":material/undo:",
                    key="form.back",
                )
        elif strategy not in placement.UNIFORM:
            _draw_ratio(spec)
            notes.show(said, "ratio")
            places.draw(strategy)
            notes.show(said, "placement")


def _draw_ratio(spec: ArchSpec) -> None:
    made_by = spec.layers.ratio
    now = f"{draft.value('layers.a')}:{draft.value('layers.b')}"
    if _share(now) is None:  # refused, and the page says so above
        now = made_by or PAPER_RATIOS[1]
    st.session_state["form.ratio"] = now
    options = sorted({*PAPER_RATIOS, now}, key=lambda ratio: _share(ratio) or 0.0)
    st.select_slider(
        "Ratio, expensive to cheap",
        options,
        key="form.ratio",
        on_change=_slide,
        help=explain("ratio"),
    )
    left, right = st.columns(2)
    with left:
        _number("expensive", "layers.a", term="ratio", changed=_place_by_rule)
    with right:
        _number("cheap", "layers.b", term="ratio", changed=_place_by_rule)
    counted = Counter(spec.letters)
    made = " + ".join(f"{n} {placement.LETTERS[letter]}" for letter, n in counted.items())
    known = (made_by or now) in PAPER_RATIOS
    beside = "" if known else "; the paper has no such ratio"
    st.caption(f"{made} = {spec.n_layers} layers{beside}")


def _share(ratio: str) -> float | None:
    """The share of attention (or intra-hybrid) layers among all; None where it is no ratio."""
    try:
        a, b = placement.parse_ratio(ratio)
    except ValueError:
        return None
    return a / (a + b)


def _slide() -> None:
    a, b = placement.parse_ratio(st.session_state["form.ratio"])
    if (a, b) == (draft.value("layers.a"), draft.value("layers.b")):
        return  # the browser has sent back what it was told; nobody asked for a change
    st.session_state.update({draft.field("layers.a"): a, draft.field("layers.b"): b})
    _place_by_rule()


def _place_by_rule() -> None:
    """Layers that are named one by one have one ratio. A new ratio is placed by a rule again."""
    if draft.value("layers.placement") == "custom":
        st.session_state[draft.field("layers.placement")] = "middle"


def _draw_attention() -> None:
    _number("Query heads", "attention.n_heads")
    _number("Key/value heads", "attention.n_kv_heads")
    _number("head_dim", "attention.head_dim", step=8)
    choice("Position", "attention.position", ("rope", "nope"))
    _number("RoPE theta", "attention.rope_theta", step=1.0)
    st.toggle(
        "Llama-3 frequency scaling",
        key=draft.field("attention.rope_scaling"),
        help=explain("rope_scaling"),
    )
    st.number_input(
        "Scaling factor",
        value=None,
        step=1.0,
        key=draft.field("attention.rope_factor"),
        disabled=not draft.value("attention.rope_scaling"),
        help=explain("rope_factor"),
    )


def _draw_ssm() -> None:
    st.selectbox(
        "Kind ",
        tuple(draft.SSM_KINDS),
        key=draft.field("ssm.kind"),
        on_change=_new_ssm_kind,
        help=explain("ssm.kind"),
    )
    _number("d_ssm (inner width)", "ssm.d_ssm", step=128)
    _number("d_state", "ssm.d_state", step=16)
    _number("d_conv", "ssm.d_conv")
    if draft.value("ssm.kind") == "mamba1":
        _number("dt_rank", "ssm.dt_rank")
        st.toggle(
            "Norms of dt, B and C", key=draft.field("ssm.dt_bc_norm"), help=explain("dt_bc_norm")
        )
    else:
        _number("head_dim", "ssm.head_dim", step=16)
        _number("n_groups", "ssm.n_groups")
        st.selectbox(
            "chunk_size", CHUNKS, key=draft.field("ssm.chunk_size"), help=explain("ssm.chunk_size")
        )


def _new_ssm_kind() -> None:
    """The other kind's usual dimensions; the inner width stays."""
    fields = draft.SSM_KINDS[draft.value("ssm.kind")].model_fields
    usual = {key: field.default for key, field in fields.items() if not field.is_required()}
    usual["dt_rank"] = ceil((draft.value("d_model") or 16) / 16)
    for key, item in usual.items():
        st.session_state[draft.field(f"ssm.{key}")] = item


def _draw_diff() -> None:
    st.caption(explain("diff"))
    choice("Norm ", "diff.norm", ("none", "group"))
    choice("Scalar ", "diff.scalar", ("diff_t", "none"))
    choice("Fusion ", "diff.fusion", ("diff", "add"))


def _draw_intra_sizes(said: notes.Notes) -> None:
    _number("Attention heads", "intra.n_heads")
    _number("Key/value heads ", "intra.n_kv_heads")
    _number("Query/key head_dim", "intra.qk_head_dim", step=8)
    _number("Value head_dim", "intra.v_head_dim", step=8)
    _number("d_ssm of the Mamba branch", "intra.d_ssm", step=128)
    _number("SSM head_dim (0 = as Mamba-2)", "intra.ssm_head_dim", step=16)
    notes.show(said, "intra.qk_head_dim")


INTRA_AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "norm": ("Norm", ("group", "none")),
    "scalar": ("Scalar", ("none", "scale", "gate", "diff_t")),
    "fusion": ("Fusion", ("add", "diff", "concat")),
    "value": ("Value", ("separate", "shared")),
    "out": ("Output projection", ("separate", "joint")),
}


def draw_intra(mixer: IntraMixer, said: notes.Notes) -> None:
    """The intra-hybrid block, drawn, with a control per axis and what the paper says about it."""
    st.subheader("Inside an intra-hybrid block")
    says = ", ".join(f"{axis} {getattr(mixer, axis)}" for axis in INTRA_AXES)
    st.image(
        pictures.intra_block(mixer, layout.ink()),
        alt=f"Intra-hybrid block, attention and Mamba-2 side by side: {says}",
    )
    if any(own["kind"] == "intra" for own in draft.own_mixers().values()):
        st.caption("As the published model has it: no control changes it.")
        return
    with st.container(horizontal=True, gap="medium"):
        for axis, (label, options) in INTRA_AXES.items():
            with st.container(width=172):
                choice(label, f"intra.{axis}", options)
                notes.show(said, f"intra.{axis}")


def _draw_ffn() -> None:
    choice("Kind", "ffn.kind", (*draft.FFN_KINDS, "none"))
    if draft.value("ffn.kind") in ("swiglu", "mlp"):
        _number("d_ff", "ffn.d_ff", step=128)
    elif draft.value("ffn.kind") == "moe":
        _number("Routed experts", "ffn.n_routed")
        _number("Chosen per token", "ffn.top_k")
        _number("Shared experts", "ffn.n_shared")
        _number("Width of an expert", "ffn.d_expert", step=128)

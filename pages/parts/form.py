"""The controls of Compose, in the order in which users decide. Their values are the draft."""

from collections import Counter
from collections.abc import Callable, Sequence
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
    """A number, whole if its step is whole. An empty box holds None, which the design's own rules
    reject."""
    st.number_input(
        label,
        value=None,
        step=step,
        key=draft.field(path),
        help=explain(term or path),
        on_change=changed,
    )


def _choice(
    label: str,
    path: str,
    options: Sequence[str | int],
    changed: Callable[[], None] | None = None,
) -> None:
    st.selectbox(
        label,
        options,
        key=draft.field(path),
        help=explain(path),
        on_change=changed,
    )


def _toggle(label: str, path: str) -> None:
    st.toggle(
        label,
        key=draft.field(path),
        help=explain(path),
    )


def draw(spec: ArchSpec, advice: notes.Notes) -> None:
    """The controls that make a design. `spec`: the last valid one; `advice`: the advice on it."""
    _draw_start()
    _draw_size()
    _draw_layers(spec, advice)


def draw_dimensions(advice: notes.Notes) -> None:
    """The dimensions of every kind of layer, in expanders."""
    letters = draft.strategy_letters()
    st.subheader("Dimensions")
    _fold("Attention", _draw_attention)
    _fold("Sliding window", lambda: _draw_window(advice), unfolded="S" in letters)
    _fold("Mamba", _draw_ssm)
    _fold("Intra-hybrid block: sizes", lambda: _draw_intra_sizes(advice))
    _fold("Differential layers", _draw_diff, unfolded=bool(letters & set("DN")))
    _fold("Feed-forward", _draw_ffn)
    notes.show(advice, "ffn")


def _fold(title: str, content: Callable[[], None], unfolded: bool = False) -> None:
    """Controls in an expander. They are drawn once it is opened, so hidden ones cost no time."""
    folder = st.expander(
        title,
        expanded=unfolded,
        key=f"fold-{title}-{unfolded}",
        on_change="rerun",
    )
    if folder.open:
        with folder:
            content()


def _draw_window(advice: notes.Notes) -> None:
    _number("window (tokens)", "swa.window")
    _number("sink (tokens)", "swa.sink")
    _number("RoPE theta of the window", "swa.rope_theta", step=1.0)
    notes.show(advice, "swa.window")


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
        "or open a YAML file, or a published config.json",
        key="form.upload",
        on_change=_open_upload,
    )
    _draw_paste()


def _draw_paste() -> None:
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
    """Open a published config as the design. If it cannot be read, one line says why."""
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
    _toggle("Head shares the embedding", "tie_embeddings")
    _draw_fit()


def _draw_fit() -> None:
    """Find the depth that gives a number of parameters."""
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
    """Extend a custom stack by its last kind, or drop its last layers."""
    pattern: str = draft.value("layers.pattern")
    n_layers = draft.n_layers()
    last = pattern[-1:]
    longest = pattern + last * n_layers
    st.session_state[draft.field("layers.pattern")] = longest[:n_layers]


def _fit(target: float) -> None:
    _place_by_rule()  # layers that are listed one by one fit one depth only
    try:
        draft.load(fit_depth(draft.design(), target))
    except ValueError as error:
        st.session_state["form.problem"] = str(error)


def _draw_layers(spec: ArchSpec, advice: notes.Notes) -> None:
    st.subheader("Layers")
    _choice("Strategy", "layers.strategy", placement.STRATEGIES)
    strategy = draft.value("layers.strategy")
    notes.show(advice, "strategy")
    with st.container():
        if strategy == "custom":
            st.caption("Click layers of the stack, or write its letters.")
            _draw_way_back()
        elif strategy not in placement.UNIFORM:
            _draw_ratio(spec, strategy)
            notes.show(advice, "ratio")
            places.draw(strategy)
            notes.show(advice, "placement")


def _draw_way_back() -> None:
    """The button that leads from a custom stack back to the strategy that it was made from."""
    if "form.strategy_before" not in st.session_state:
        return
    before, _ = st.session_state["form.strategy_before"]
    st.button(
        f"Back to {before}",
        on_click=draft.back,
        icon=":material/undo:",
        key="form.back",
    )


def _draw_ratio(spec: ArchSpec, strategy: placement.Strategy) -> None:
    placed, rest = (placement.LETTERS[letter] for letter in placement.MIXTURES[strategy])
    now = f"{draft.value('layers.a')}:{draft.value('layers.b')}"
    if _share(now) is None:  # rejected; the page shows the error above
        now = spec.layers.ratio or PAPER_RATIOS[1]
    st.session_state["form.ratio"] = now
    st.select_slider(
        f"Ratio, {placed} to {rest}",
        sorted({*PAPER_RATIOS, now}, key=_by_share),
        key="form.ratio",
        on_change=_slide,
        help=explain("ratio"),
    )
    left, right = st.columns(2)
    with left:
        _number(placed, "layers.a", term="ratio", changed=_place_by_rule)
    with right:
        _number(rest, "layers.b", term="ratio", changed=_place_by_rule)
    st.caption(_made(spec, spec.layers.ratio or now))


def _made(spec: ArchSpec, ratio: str) -> str:
    """The layers that a ratio made: "10 Mamba + 3 attention = 13 layers"."""
    counted = Counter(spec.letters)
    made = " + ".join(f"{n} {placement.LETTERS[letter]}" for letter, n in counted.items())
    line = f"{made} = {spec.n_layers} layers"
    if ratio not in PAPER_RATIOS:
        line += "; the paper has no such ratio"
    return line


def _share(ratio: str) -> float | None:
    """The share of the first kind of layer among all; None if the text is not a ratio."""
    try:
        a, b = placement.parse_ratio(ratio)
    except ValueError:
        return None
    return a / (a + b)


def _by_share(ratio: str) -> float:
    """The sort key of ratios on the slider."""
    return _share(ratio) or 0.0


def _slide() -> None:
    a, b = placement.parse_ratio(st.session_state["form.ratio"])
    if (a, b) == (draft.value("layers.a"), draft.value("layers.b")):
        return  # the browser sent the current value back; the user changed nothing
    st.session_state[draft.field("layers.a")] = a
    st.session_state[draft.field("layers.b")] = b
    _place_by_rule()


def _place_by_rule() -> None:
    """Place layers by a rule again if they were listed one by one: a list has one ratio only."""
    if draft.value("layers.placement") == "custom":
        st.session_state[draft.field("layers.placement")] = "middle"


def _draw_attention() -> None:
    _number("Query heads", "attention.n_heads")
    _number("Key/value heads", "attention.n_kv_heads")
    _number("head_dim", "attention.head_dim", step=8)
    _choice("Position", "attention.position", ("rope", "nope"))
    _number("RoPE theta", "attention.rope_theta", step=1.0)
    _toggle("Llama-3 frequency scaling", "attention.rope_scaling")
    st.number_input(
        "Scaling factor",
        value=None,
        step=1.0,
        key=draft.field("attention.rope_factor"),
        disabled=not draft.value("attention.rope_scaling"),
        help=explain("rope_factor"),
    )


def _draw_ssm() -> None:
    _choice("Kind ", "ssm.kind", tuple(draft.SSM_KINDS), changed=_new_ssm_kind)
    _number("d_ssm (inner width)", "ssm.d_ssm", step=128)
    _number("d_state", "ssm.d_state", step=16)
    _number("d_conv", "ssm.d_conv")
    if draft.value("ssm.kind") == "mamba1":
        _number("dt_rank", "ssm.dt_rank")
        _toggle("Norms of dt, B and C", "ssm.dt_bc_norm")
    else:
        _number("head_dim", "ssm.head_dim", step=16)
        _number("n_groups", "ssm.n_groups")
        _choice("chunk_size", "ssm.chunk_size", CHUNKS)


def _new_ssm_kind() -> None:
    """Fill in the usual dimensions of the new kind. The inner width stays."""
    fields = draft.SSM_KINDS[draft.value("ssm.kind")].model_fields
    usual = {}
    for key, field in fields.items():
        if not field.is_required():
            usual[key] = field.default
    d_model = draft.value("d_model") or 16
    usual["dt_rank"] = ceil(d_model / 16)  # as in the published Mamba-1 models
    for key, item in usual.items():
        st.session_state[draft.field(f"ssm.{key}")] = item


def _draw_diff() -> None:
    st.caption(explain("diff"))
    _choice("Norm ", "diff.norm", ("none", "group"))
    _choice("Scalar ", "diff.scalar", ("diff_t", "none"))
    _choice("Fusion ", "diff.fusion", ("diff", "add"))


def _draw_intra_sizes(advice: notes.Notes) -> None:
    _number("Attention heads", "intra.n_heads")
    _number("Key/value heads ", "intra.n_kv_heads")
    _number("Query/key head_dim", "intra.qk_head_dim", step=8)
    _number("Value head_dim", "intra.v_head_dim", step=8)
    _number("d_ssm of the Mamba branch", "intra.d_ssm", step=128)
    _number("SSM head_dim (0 = as Mamba-2)", "intra.ssm_head_dim", step=16)
    notes.show(advice, "intra.qk_head_dim")


INTRA_AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "norm": ("Norm", ("group", "none")),
    "scalar": ("Scalar", ("none", "scale", "gate", "diff_t")),
    "fusion": ("Fusion", ("add", "diff", "concat")),
    "value": ("Value", ("separate", "shared")),
    "out": ("Output projection", ("separate", "joint")),
}


def draw_intra(mixer: IntraMixer, advice: notes.Notes) -> None:
    """A drawing of the intra-hybrid block, a control per axis, and the advice on each."""
    st.subheader("Inside an intra-hybrid block")
    axes = ", ".join(f"{axis} {getattr(mixer, axis)}" for axis in INTRA_AXES)
    st.image(
        pictures.intra_block(mixer, layout.ink()),
        alt=f"Intra-hybrid block, attention and Mamba-2 side by side: {axes}",
    )
    if any(own["kind"] == "intra" for own in draft.own_mixers().values()):
        st.caption("This block comes from the published model. No control changes it.")
        return
    with st.container(horizontal=True, gap="medium"):
        for axis, (label, options) in INTRA_AXES.items():
            with st.container(width=172):
                _choice(label, f"intra.{axis}", options)
                notes.show(advice, f"intra.{axis}")


def _draw_ffn() -> None:
    _choice("Kind", "ffn.kind", (*draft.FFN_KINDS, "none"))
    if draft.value("ffn.kind") in ("swiglu", "mlp"):
        _number("d_ff", "ffn.d_ff", step=128)
    elif draft.value("ffn.kind") == "moe":
        _number("Routed experts", "ffn.n_routed")
        _number("Chosen per token", "ffn.top_k")
        _number("Shared experts", "ffn.n_shared")
        _number("Width of an expert", "ffn.d_expert", step=128)

"""The controls of Compose, in the order people think. They hold a draft; `draft()` says what it describes."""

from collections import Counter
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import streamlit as st

from hybrid_core import placement, presets
from hybrid_core.costs.model import fit_depth
from hybrid_core.glossary import explain
from hybrid_core.interop.huggingface import parse_config, spec_from_config
from hybrid_core.spec import MAX_DIM, ArchSpec, Frozen, IntraMixer, Mamba1Section, Mamba2Section, Mlp, MoE, SpecError, SwiGLU
from hybrid_core.spec import SECTIONS as NEEDED
from pages.parts import layout, notes, pictures

PLAIN = ("name", "vocab_size", "tie_embeddings", "norm_eps", "d_model", "n_layers")
KEPT = ("mixers", "ffns", "post_norm", "norm", "meta_tokens", "outside_params", "constants")  # of published models: no control, kept as is
SECTIONS = ("attention", "swa", "ssm", "intra", "diff")
BUTTONS = ("form.fit", "form.upload", "form.back", "form.paste")  # what Streamlit lets nobody set
FFN_KINDS: dict[str, type[Frozen]] = {"swiglu": SwiGLU, "mlp": Mlp, "moe": MoE}
SSM_KINDS = {"mamba2": Mamba2Section, "mamba1": Mamba1Section}
STRATEGY_LETTERS = {"transformer": "A", "swa": "AS", "mamba": "M", "inter": "AM", "intra": "HM"}
CHUNKS = tuple(2**i for i in range(MAX_DIM.bit_length()))
PAPER_RATIOS = ("0:1", "1:12", "1:5", "1:3", "1:1", "1:0")


def _field(path: str) -> str:
    return f"form.{path}"


def value(path: str) -> Any:
    """What a control holds."""
    return st.session_state[_field(path)]


def remember() -> None:
    """Keep what the controls hold that this page does not draw now; Streamlit forgets a control that is not drawn."""
    for key in [key for key in st.session_state if str(key).startswith("form.") and key not in BUTTONS]:
        st.session_state[key] = st.session_state[key]


def load(spec: ArchSpec) -> None:
    """Fill every control from a design; sections that it lacks come from the worked example."""
    fallback = presets.get(presets.FIRST).spec.replace(diff={})
    state = {key: getattr(spec, key) for key in PLAIN}
    for section in SECTIONS:
        model = getattr(spec, section) or getattr(fallback, section)
        state |= {f"{section}.{key}": item for key, item in model.model_dump(exclude={"rope_scaling"}).items()}
    scaling = spec.attention.rope_scaling if spec.attention else None
    state |= {"attention.rope_scaling": scaling is not None, "attention.rope_factor": scaling.factor if scaling else 32.0}
    state["intra.ssm_head_dim"] = state["intra.ssm_head_dim"] or 0
    ffn = spec.ffn.model_dump() if spec.ffn else {"kind": "none"}
    state |= {"ffn.d_ff": 8192, "ffn.n_routed": 8, "ffn.top_k": 1, "ffn.n_shared": 1, "ffn.d_expert": 4096}
    state |= {f"ffn.{key}": item for key, item in ffn.items()}
    state |= _layers_state(spec)
    for path, item in state.items():
        st.session_state[_field(path)] = item
    st.session_state.pop("form.strategy_before", None)
    st.session_state["form.sections"] = {section for section in SECTIONS if getattr(spec, section)}
    st.session_state["form.scaling"] = scaling.model_dump() if scaling else None
    st.session_state["form.kept"] = {key: item for key, item in spec.model_dump(mode="json", exclude_none=True).items() if key in KEPT}
    st.session_state["form.ffns"] = spec.layers.ffns


def _layers_state(spec: ArchSpec) -> dict[str, Any]:
    """Strategy, ratio and placement controls. Indices as printed show as placement `custom` with the ratio that makes as many."""
    layers = spec.layers
    a, b = placement.parse_ratio(layers.ratio) if layers.ratio else (1, 5)
    if layers.indices is not None:
        a, b = next(
            ((1, b) for b in (0, 1, 3, 5, 12, *range(1, 64)) if placement.n_expensive(spec.n_layers, (1, b)) == len(layers.indices)), (1, 5)
        )
    return {
        "layers.strategy": layers.strategy,
        "layers.a": a,
        "layers.b": b,
        "layers.placement": "custom" if layers.indices is not None else layers.placement or "middle",
        "layers.indices": _expensive(spec),
        "layers.pattern": spec.letters,
    }


def _expensive(spec: ArchSpec) -> str:
    """The indices of the expensive kind, as the control shows them."""
    letter = placement.MIXTURES.get(spec.layers.strategy, ("A", "M"))[0]
    return ", ".join(str(i) for i, kind in enumerate(spec.letters, start=1) if kind == letter)


def draft() -> ArchSpec:
    """The design that the controls describe. Raises SpecError with one line."""
    data: dict[str, Any] = {"schema": 1} | {key: value(key) for key in PLAIN}
    data["layers"] = _layers()
    letters = _letters() if value("layers.strategy") == "custom" else STRATEGY_LETTERS[value("layers.strategy")]
    needed = set().union(*(NEEDED.get(letter, ()) for letter in letters)) | st.session_state["form.sections"]
    for section in SECTIONS:
        if section in needed:
            data[section] = _section(section)
    data["ffn"] = _ffn()
    data |= st.session_state["form.kept"]
    return ArchSpec.from_mapping({key: item for key, item in data.items() if item is not None})


def follow(spec: ArchSpec) -> None:
    """A custom stack, and layers named one by one, start from the stack that was there."""
    st.session_state[_field("layers.pattern")] = spec.letters
    if value("layers.placement") != "custom":
        st.session_state[_field("layers.indices")] = _expensive(spec)


def _layers() -> dict[str, Any]:
    strategy = value("layers.strategy")
    if strategy == "custom":
        return {"pattern": _letters()} | _ffns()
    if strategy in placement.UNIFORM:
        return {"strategy": strategy} | _ffns()
    if value("layers.placement") == "custom":
        return {"strategy": strategy, "indices": _indices(value("layers.indices"))} | _ffns()
    return {"strategy": strategy, "ratio": f"{value('layers.a')}:{value('layers.b')}", "placement": value("layers.placement")} | _ffns()


def _letters() -> str:
    """Of a custom stack."""
    return _capitals(value("layers.pattern"))


def _capitals(letters: str) -> str:
    """Those of the usual kinds are capitals; a published model's own may be of either case."""
    return letters.strip() if "mixers" in st.session_state["form.kept"] else letters.strip().upper()


def _ffns() -> dict[str, str]:
    """The feed-forward of each layer, where a published model's differ; as many as there are layers."""
    feeds = st.session_state["form.ffns"]
    return {"ffns": (feeds + feeds[-1:] * value("n_layers"))[: value("n_layers")]} if feeds else {}


def set_kinds(pattern: str) -> None:
    """Make the stack these letters, the strategy custom; what breaks a rule is said and changes nothing."""
    pattern = _capitals(pattern)
    before = {key: value(key) for key in ("layers.strategy", "layers.pattern", "n_layers")}
    changed = {"layers.strategy": "custom", "layers.pattern": pattern, "n_layers": max(1, len(pattern))}
    st.session_state.update({_field(key): item for key, item in changed.items()})
    try:
        draft()
    except SpecError as error:
        st.session_state.update({_field(key): item for key, item in before.items()} | {"form.problem": str(error)})
        return
    if before["layers.strategy"] != "custom":
        st.session_state["form.strategy_before"] = (before["layers.strategy"], before["n_layers"])


def back() -> None:
    """Leave the custom stack for the strategy that it was made from; ratio and placement are as they were."""
    strategy, n_layers = st.session_state.pop("form.strategy_before")
    st.session_state.update({_field("layers.strategy"): strategy, _field("n_layers"): n_layers})


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise SpecError(f"layers.indices: {text!r} - must be layer numbers separated by commas, e.g. 4, 8") from None


def _section(name: str) -> dict[str, Any]:
    prefix = _field(f"{name}.")
    keys = [key for key in st.session_state if isinstance(key, str) and key.startswith(prefix)]
    section = {key.removeprefix(prefix): st.session_state[key] for key in keys}
    if name == "attention":
        factor, on = section.pop("rope_factor"), section.pop("rope_scaling")
        section["rope_scaling"] = (st.session_state["form.scaling"] or {}) | {"factor": float(factor)} if on else None
    if name == "intra":
        section["ssm_head_dim"] = section["ssm_head_dim"] or None
    if name == "ssm":  # the controls of the other kind keep what they held
        section = {key: item for key, item in section.items() if key in SSM_KINDS[section["kind"]].model_fields}
    return section


def _ffn() -> dict[str, Any] | None:
    kind = value("ffn.kind")
    if kind == "none":
        return None
    held = ((key, st.session_state.get(_field(f"ffn.{key}"))) for key in FFN_KINDS[kind].model_fields)
    return {key: item for key, item in held if item is not None}


# ---------------------------------------------------------------- drawing


def _number(label: str, path: str, least: int = 1, step: int = 1) -> None:
    st.number_input(label, min_value=least, step=step, key=_field(path), help=explain(path))


def choice(label: str, path: str, options: tuple[str, ...]) -> None:
    """A select box for one of the form's values."""
    st.selectbox(label, options, key=_field(path), help=explain(path))


def draw(spec: ArchSpec, said: notes.Notes) -> None:
    """All controls, in the sidebar; `spec` is the last good design, `said` the advice on it."""
    letters = set(STRATEGY_LETTERS.get(value("layers.strategy"), _letters()))
    _draw_start()
    _draw_size()
    _draw_layers(spec, said)
    _fold("Attention", _draw_attention)
    _fold("Sliding window", lambda: _draw_window(said), unfolded="S" in letters)
    _fold("Mamba", _draw_ssm)
    _fold("Intra-hybrid block: sizes", lambda: _draw_intra_sizes(said))
    _fold("Differential layers", _draw_diff, unfolded=bool(letters & set("DN")))
    _fold("Feed-forward", _draw_ffn)
    notes.show(said, "ffn")


def _fold(title: str, content: Callable[[], None], unfolded: bool = False) -> None:
    """Controls behind their title, drawn once it is opened: what is not seen costs no time."""
    folder = st.expander(title, expanded=unfolded, key=f"fold-{title}-{unfolded}", on_change="rerun")
    if folder.open:
        with folder:
            content()


def _draw_window(said: notes.Notes) -> None:
    _number("window (tokens)", "swa.window")
    _number("sink (tokens)", "swa.sink", least=0)
    st.number_input("RoPE theta of the window", min_value=1.0, key=_field("swa.rope_theta"), help=explain("swa.rope_theta"))
    notes.show(said, "swa.window")


def _draw_start() -> None:
    st.selectbox(
        "Start from",
        [*presets.ordered(), *presets.models()],
        index=None,
        placeholder="the paper's or a published model",
        key="form.preset",
        on_change=_open_preset,
        help=explain("preset"),
    )
    st.file_uploader("or open a YAML file, or a published config.json", key="form.upload", on_change=_open_upload)
    with st.popover("Paste a config.json", icon=":material/content_paste:"):
        st.text_area("As Hugging Face publishes it", key="form.pasted", height=200, placeholder='{"model_type": "jamba", ...}')
        st.button("Open config", key="form.paste", on_click=_open_pasted)


def _open_preset() -> None:
    if name := st.session_state["form.preset"]:
        load(presets.resolve(name))
        st.session_state["form.preset"] = None


def _open_upload() -> None:
    upload = st.session_state["form.upload"]
    if upload is None:
        return
    if upload.name.endswith(".json"):
        _open_config(upload.getvalue(), presets.config_name(Path(upload.name)), upload.name)
        return
    try:
        load(ArchSpec.from_yaml(upload.getvalue()))
    except SpecError as error:
        st.session_state["form.problem"] = f"{upload.name}: {error}"


def _open_pasted() -> None:
    _open_config(st.session_state["form.pasted"], "pasted", "pasted config")


def _open_config(text: str | bytes, name: str, source: str) -> None:
    """A published config as the design; what is wrong with it is said in one line."""
    try:
        load(spec_from_config(parse_config(text), name))
    except SpecError as error:
        st.session_state["form.problem"] = f"{source}: {error}"


def _draw_size() -> None:
    st.subheader("Size")
    st.text_input("Name", key=_field("name"), max_chars=100, help=explain("name"))
    left, right = st.columns(2)
    with left:
        _number("d_model", "d_model", step=128)
        _number("Vocabulary", "vocab_size", step=1024)
    with right:
        st.number_input("Layers", min_value=1, key=_field("n_layers"), help=explain("n_layers"), on_change=_as_many_kinds)
    st.toggle("Head shares the embedding", key=_field("tie_embeddings"), help=explain("tie_embeddings"))
    with st.popover("Fit depth", icon=":material/straighten:", help=explain("fit_depth")):
        target = st.number_input("Parameters without embedding (millions)", min_value=1.0, value=973.0, step=10.0)
        st.caption("973M is the paper's Llama at 1B")
        st.button("Fit", on_click=_fit, args=(target * 1e6,), key="form.fit")


def _as_many_kinds() -> None:
    """A custom stack grows by its last kind, or loses its last layers."""
    pattern, n_layers = value("layers.pattern"), value("n_layers")
    st.session_state[_field("layers.pattern")] = (pattern + pattern[-1:] * n_layers)[:n_layers]


def _fit(target: float) -> None:
    try:
        load(fit_depth(draft(), target))
    except ValueError as error:
        st.session_state["form.problem"] = str(error)


def _draw_layers(spec: ArchSpec, said: notes.Notes) -> None:
    st.subheader("Layers")
    choice("Strategy", "layers.strategy", placement.STRATEGIES)
    strategy = value("layers.strategy")
    notes.show(said, "strategy")
    with st.container():
        if strategy == "custom" and "form.strategy_before" in st.session_state:
            st.button(f"Back to {st.session_state['form.strategy_before'][0]}", on_click=back, icon=":material/undo:", key="form.back")
        elif strategy not in placement.UNIFORM and strategy != "custom":
            _draw_ratio(spec)
            notes.show(said, "ratio")
            _draw_placement(strategy)
            notes.show(said, "placement")


def _draw_ratio(spec: ArchSpec) -> None:
    a, b = value("layers.a"), value("layers.b")
    now = f"{a}:{b}"
    st.session_state["form.ratio"] = now
    options = sorted({*PAPER_RATIOS, now}, key=_share)
    st.select_slider("Ratio, expensive to cheap", options, key="form.ratio", on_change=_slide, help=explain("ratio"))
    left, right = st.columns(2)
    left.number_input("expensive", min_value=0, max_value=1024, key=_field("layers.a"), on_change=_place_by_rule)
    right.number_input("cheap", min_value=0, max_value=1024, key=_field("layers.b"), on_change=_place_by_rule)
    counted = Counter(layer.letter for layer in spec.stack)
    made = " + ".join(f"{n} {placement.LETTERS[letter]}" for letter, n in counted.items())
    st.caption(f"{made} = {spec.n_layers} layers{'' if now in PAPER_RATIOS else '; the paper has no such ratio'}")


def _share(ratio: str) -> float:
    a, b = placement.parse_ratio(ratio) if ratio != "0:0" else (0, 1)
    return a / (a + b)


def _slide() -> None:
    a, b = placement.parse_ratio(st.session_state["form.ratio"])
    st.session_state.update({_field("layers.a"): a, _field("layers.b"): b})
    _place_by_rule()


def _place_by_rule() -> None:
    """Named layers are of one ratio; another ratio is placed by a rule again."""
    if value("layers.placement") == "custom":
        st.session_state[_field("layers.placement")] = "middle"


def _draw_placement(strategy: placement.Strategy) -> None:
    """Every rule as a picture of the stack it makes; `scatter` is another name of `middle`."""
    shown = [name for name in placement.PLACEMENTS if name != "scatter" or value("layers.placement") == "scatter"]
    n_layers, expensive = value("n_layers"), placement.MIXTURES[strategy][0]
    k = placement.n_expensive(n_layers, (value("layers.a"), value("layers.b"))) if value("layers.a") + value("layers.b") else 0

    def picture(name: placement.Placement) -> str:
        if name == "custom":
            return "custom: the layers you name"
        pattern = placement.pattern(strategy, n_layers, placement.place(k, n_layers, name))
        return f"{pictures.strip(pattern, pictures.COLOURS)} {name}"

    st.radio(
        "Placement, first layer at the left",
        [*shown, "custom"],
        format_func=picture,
        key=_field("layers.placement"),
        help=explain("placement"),
    )
    if value("layers.placement") == "custom":
        st.text_input(f"Layers of kind {placement.LETTERS[expensive]}", key=_field("layers.indices"), help=explain("indices"))


def _draw_attention() -> None:
    _number("Query heads", "attention.n_heads")
    _number("Key/value heads", "attention.n_kv_heads")
    _number("head_dim", "attention.head_dim", step=8)
    choice("Position", "attention.position", ("rope", "nope"))
    st.number_input("RoPE theta", min_value=1.0, key=_field("attention.rope_theta"), help=explain("rope_theta"))
    st.toggle("Llama-3 frequency scaling", key=_field("attention.rope_scaling"), help=explain("rope_scaling"))
    st.number_input(
        "Scaling factor",
        min_value=1.0,
        key=_field("attention.rope_factor"),
        disabled=not value("attention.rope_scaling"),
        help=explain("rope_factor"),
    )


def _draw_ssm() -> None:
    st.selectbox("Kind ", tuple(SSM_KINDS), key=_field("ssm.kind"), on_change=_new_ssm_kind, help=explain("ssm.kind"))
    _number("d_ssm (inner width)", "ssm.d_ssm", step=128)
    _number("d_state", "ssm.d_state", step=16)
    _number("d_conv", "ssm.d_conv")
    if value("ssm.kind") == "mamba1":
        _number("dt_rank", "ssm.dt_rank")
        st.toggle("Norms of dt, B and C", key=_field("ssm.dt_bc_norm"), help=explain("dt_bc_norm"))
    else:
        _number("head_dim", "ssm.head_dim", step=16)
        _number("n_groups", "ssm.n_groups")
        st.selectbox("chunk_size", CHUNKS, key=_field("ssm.chunk_size"), help=explain("ssm.chunk_size"))


def _new_ssm_kind() -> None:
    """The other kind's usual dimensions; the inner width stays."""
    fields = SSM_KINDS[value("ssm.kind")].model_fields
    usual = {key: field.default for key, field in fields.items() if not field.is_required()}
    for key, item in (usual | {"dt_rank": ceil(value("d_model") / 16)}).items():
        st.session_state[_field(f"ssm.{key}")] = item


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
    _number("SSM head_dim (0 = as Mamba-2)", "intra.ssm_head_dim", least=0, step=16)
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
    st.image(pictures.intra_block(mixer, layout.ink()), alt=f"Intra-hybrid block, attention and Mamba-2 side by side: {says}")
    with st.container(horizontal=True, gap="medium"):
        for axis, (label, options) in INTRA_AXES.items():
            with st.container(width=172):
                choice(label, f"intra.{axis}", options)
                notes.show(said, f"intra.{axis}")


def _draw_ffn() -> None:
    choice("Kind", "ffn.kind", (*FFN_KINDS, "none"))
    if value("ffn.kind") in ("swiglu", "mlp"):
        _number("d_ff", "ffn.d_ff", step=128)
    elif value("ffn.kind") == "moe":
        _number("Routed experts", "ffn.n_routed")
        _number("Chosen per token", "ffn.top_k")
        _number("Shared experts", "ffn.n_shared", least=0)
        _number("Width of an expert", "ffn.d_expert", step=128)

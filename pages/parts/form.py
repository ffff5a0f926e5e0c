"""The controls of Compose, in the order people think. They hold a draft; `draft()` says what it describes."""

from math import ceil
from typing import Any

import streamlit as st

from hybrid_core import placement, presets
from hybrid_core.costs.model import fit_depth
from hybrid_core.spec import SECTIONS as NEEDED
from hybrid_core.spec import ArchSpec, Mamba1Section, Mamba2Section, SpecError

PLAIN = ("name", "vocab_size", "tie_embeddings", "norm_eps", "d_model", "n_layers")
SECTIONS = ("attention", "swa", "ssm", "intra", "diff")
SSM_KINDS = {"mamba2": Mamba2Section, "mamba1": Mamba1Section}
STRATEGY_LETTERS = {"transformer": "A", "swa": "AS", "mamba": "M", "inter": "AM", "intra": "HM"}
STRATEGY_HELP = (
    "transformer: all attention. swa: global attention among sliding windows. mamba: all Mamba. "
    "inter: attention blocks among Mamba blocks. intra: intra-hybrid blocks among Mamba blocks. custom: a kind per layer."
)
PLACEMENT_HELP = (
    "middle (scatter): evenly. front / end: the first / last of them moved to the ends. cluster: side by side in the centre. "
    "sandwich: first and last layer, the rest evenly. custom: the layers you name."
)


def _field(path: str) -> str:
    return f"form.{path}"


def value(path: str) -> Any:
    """What a control holds."""
    return st.session_state[_field(path)]


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
    st.session_state["form.sections"] = {section for section in SECTIONS if getattr(spec, section)}
    st.session_state["form.scaling"] = scaling.model_dump() if scaling else None


def _layers_state(spec: ArchSpec) -> dict[str, Any]:
    """Strategy, ratio and placement controls. Indices as printed show as placement `custom` with the ratio that makes as many."""
    layers = spec.layers
    a, b = placement.parse_ratio(layers.ratio) if layers.ratio else (1, 5)
    expensive = placement.MIXTURES.get(layers.strategy, ("A", "M"))[0]
    indices = [i for i, letter in enumerate(spec.pattern, start=1) if letter == expensive]
    if layers.indices is not None:
        a, b = next(
            ((1, b) for b in (0, 1, 3, 5, 12, *range(1, 64)) if placement.n_expensive(spec.n_layers, (1, b)) == len(indices)), (1, 5)
        )
    return {
        "layers.strategy": layers.strategy,
        "layers.a": a,
        "layers.b": b,
        "layers.placement": "custom" if layers.indices is not None else layers.placement or "middle",
        "layers.indices": ", ".join(map(str, indices)),
        "layers.pattern": spec.pattern,
    }


def draft() -> ArchSpec:
    """The design that the controls describe. Raises SpecError with one line."""
    data: dict[str, Any] = {"schema": 1} | {key: value(key) for key in PLAIN}
    data["layers"] = _layers()
    letters = value("layers.pattern").upper() if value("layers.strategy") == "custom" else STRATEGY_LETTERS[value("layers.strategy")]
    needed = set().union(*(NEEDED.get(letter, ()) for letter in letters)) | st.session_state["form.sections"]
    for section in SECTIONS:
        if section in needed:
            data[section] = _section(section)
    data["ffn"] = _ffn()
    return ArchSpec.from_mapping({key: item for key, item in data.items() if item is not None})


def _layers() -> dict[str, Any]:
    strategy = value("layers.strategy")
    if strategy == "custom":
        return {"pattern": value("layers.pattern").strip().upper()}
    if strategy in placement.UNIFORM:
        return {"strategy": strategy}
    if value("layers.placement") == "custom":
        return {"strategy": strategy, "indices": _indices(value("layers.indices"))}
    return {"strategy": strategy, "ratio": f"{value('layers.a')}:{value('layers.b')}", "placement": value("layers.placement")}


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
    keys = {"none": (), "swiglu": ("d_ff",), "moe": ("n_routed", "top_k", "n_shared", "d_expert")}[value("ffn.kind")]
    return {"kind": value("ffn.kind")} | {key: value(f"ffn.{key}") for key in keys} if keys else None


# ---------------------------------------------------------------- drawing


def _number(label: str, path: str, least: int = 1, step: int = 1, help: str | None = None) -> None:
    st.number_input(label, min_value=least, step=step, key=_field(path), help=help)


def _choice(label: str, path: str, options: tuple[str, ...], help: str | None = None) -> None:
    st.selectbox(label, options, key=_field(path), help=help)


def draw() -> None:
    """All controls, in the sidebar."""
    _draw_start()
    letters = set(STRATEGY_LETTERS.get(value("layers.strategy"), value("layers.pattern").upper()))
    _draw_size()
    _draw_layers()
    with st.expander("Attention", expanded=False):
        _draw_attention()
    with st.expander("Sliding window", expanded="S" in letters):
        _number("window (tokens)", "swa.window", help="A query sees this many last positions, itself included")
        _number("sink (tokens)", "swa.sink", least=0, help="… and this many first positions")
        st.number_input("RoPE theta of the window", min_value=1.0, key=_field("swa.rope_theta"))
    with st.expander("Mamba", expanded=False):
        _draw_ssm()
    with st.expander("Intra-hybrid block", expanded="H" in letters):
        _draw_intra()
    with st.expander("Differential layers", expanded=bool(letters & set("DN"))):
        _draw_diff()
    with st.expander("Feed-forward", expanded=False):
        _draw_ffn()


def _draw_start() -> None:
    st.selectbox(
        "Start from", presets.ordered(), index=None, placeholder="a preset of the paper", key="form.preset", on_change=_open_preset
    )
    st.file_uploader("or open a YAML file", key="form.upload", on_change=_open_upload)


def _open_preset() -> None:
    if name := st.session_state["form.preset"]:
        load(presets.get(name).spec)
        st.session_state["form.preset"] = None


def _open_upload() -> None:
    upload = st.session_state["form.upload"]
    if upload is None:
        return
    try:
        load(ArchSpec.from_yaml(upload.getvalue()))
    except SpecError as error:
        st.session_state["form.problem"] = f"{upload.name}: {error}"


def _draw_size() -> None:
    st.subheader("Size")
    st.text_input("Name", key=_field("name"), max_chars=100)
    left, right = st.columns(2)
    with left:
        _number("d_model", "d_model", step=128)
        _number("Vocabulary", "vocab_size", step=1024)
    with right:
        _number("Layers", "n_layers")
    st.toggle("Head shares the embedding", key=_field("tie_embeddings"))
    target = st.number_input(
        "Parameters to fit (millions, without embedding)", min_value=1.0, value=973.0, step=10.0, help="973M is the paper's Llama at 1B"
    )
    st.button("Fit depth", on_click=_fit, args=(target * 1e6,), help="The number of layers that comes closest, at this ratio and placement")


def _fit(target: float) -> None:
    try:
        load(fit_depth(draft(), target))
    except ValueError as error:
        st.session_state["form.problem"] = str(error)


def _draw_layers() -> None:
    st.subheader("Layers")
    _choice("Strategy", "layers.strategy", placement.STRATEGIES, STRATEGY_HELP)
    strategy = value("layers.strategy")
    if strategy == "custom":
        st.text_input("One letter per layer", key=_field("layers.pattern"), help=placement.LEGEND)
    elif strategy not in placement.UNIFORM:
        _choice("Placement", "layers.placement", (*placement.PLACEMENTS, "custom"), PLACEMENT_HELP)
        if value("layers.placement") == "custom":
            st.text_input("Layers of the expensive kind", key=_field("layers.indices"), help="Counted from 1, e.g. 4, 8")
        else:
            left, right = st.columns(2)
            with left:
                _number(
                    "Ratio: expensive",
                    "layers.a",
                    least=0,
                    help="Attention or intra-hybrid blocks; the paper uses 1:0, 1:1, 1:3, 1:5, 1:12, 0:1",
                )
            with right:
                _number("to cheap", "layers.b", least=0, help="Mamba or window blocks")


def _draw_attention() -> None:
    _number("Query heads", "attention.n_heads")
    _number("Key/value heads", "attention.n_kv_heads", help="Must divide the query heads; fewer make a smaller cache")
    _number("head_dim", "attention.head_dim", step=8)
    _choice("Position", "attention.position", ("rope", "nope"), "rope: rotary. nope: none")
    st.number_input("RoPE theta", min_value=1.0, key=_field("attention.rope_theta"))
    st.toggle("Llama-3 frequency scaling", key=_field("attention.rope_scaling"))
    st.number_input("Scaling factor", min_value=1.0, key=_field("attention.rope_factor"), disabled=not value("attention.rope_scaling"))


def _draw_ssm() -> None:
    st.selectbox("Kind ", tuple(SSM_KINDS), key=_field("ssm.kind"), on_change=_new_ssm_kind, help="What the layers M are")
    _number("d_ssm (inner width)", "ssm.d_ssm", step=128)
    _number("d_state", "ssm.d_state", step=16, help="State per channel; decides how much a layer can remember")
    _number("d_conv", "ssm.d_conv")
    if value("ssm.kind") == "mamba1":
        _number("dt_rank", "ssm.dt_rank", help="Rank of dt; d_model / 16 in the published models")
        st.toggle("Norms of dt, B and C", key=_field("ssm.dt_bc_norm"), help="As in Jamba and Falcon-Mamba")
    else:
        _number("head_dim", "ssm.head_dim", step=16)
        _number("n_groups", "ssm.n_groups", help="Heads of a group share B and C")
        _number("chunk_size", "ssm.chunk_size", step=64, help="How the scan is cut; changes FLOPs, not results")


def _new_ssm_kind() -> None:
    """The other kind's usual dimensions; the inner width stays."""
    fields = SSM_KINDS[value("ssm.kind")].model_fields
    usual = {key: field.default for key, field in fields.items() if not field.is_required()}
    for key, item in (usual | {"dt_rank": ceil(value("d_model") / 16)}).items():
        st.session_state[_field(f"ssm.{key}")] = item


def _draw_diff() -> None:
    st.caption("Kinds D and N of a custom pattern: two softmax maps, or two Mamba-2 branches, one minus lambda times the other")
    _choice("Norm ", "diff.norm", ("none", "group"), "group: RMS over each head")
    _choice("Scalar ", "diff.scalar", ("diff_t", "none"), "diff_t: lambda on the second")
    _choice("Fusion ", "diff.fusion", ("diff", "add"), "diff: first minus second")


def _draw_intra() -> None:
    _number("Attention heads", "intra.n_heads")
    _number("Key/value heads ", "intra.n_kv_heads")
    _number("Query/key head_dim", "intra.qk_head_dim", step=8)
    _number("Value head_dim", "intra.v_head_dim", step=8, help="The paper: heads * this = d_model")
    _number("d_ssm of the Mamba branch", "intra.d_ssm", step=128)
    _number("SSM head_dim (0 = as Mamba-2)", "intra.ssm_head_dim", least=0, step=16)
    _choice("Norm", "intra.norm", ("group", "none"), "group: RMS over each head of each branch")
    _choice(
        "Scalar",
        "intra.scalar",
        ("none", "scale", "gate", "diff_t"),
        "scale: a learnt vector per branch. gate: a sigmoid per head. diff_t: lambda on the Mamba branch",
    )
    _choice("Fusion", "intra.fusion", ("add", "diff", "concat"), "diff: attention minus Mamba, the paper's best")
    _choice("Value", "intra.value", ("separate", "shared"), "shared: Mamba reads the attention's values")
    _choice("Output projection", "intra.out", ("separate", "joint"), "separate: one per branch, before fusion")


def _draw_ffn() -> None:
    _choice("Kind", "ffn.kind", ("swiglu", "moe", "none"), "moe: mixture of experts, sigmoid router")
    if value("ffn.kind") == "swiglu":
        _number("d_ff", "ffn.d_ff", step=128)
    elif value("ffn.kind") == "moe":
        _number("Routed experts", "ffn.n_routed")
        _number("Chosen per token", "ffn.top_k")
        _number("Shared experts", "ffn.n_shared", least=0)
        _number("Width of an expert", "ffn.d_expert", step=128)

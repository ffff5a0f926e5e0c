"""What the controls of Compose hold, and the design that it describes."""

from typing import Any

import streamlit as st

from hybrid_core.design import placement, presets
from hybrid_core.design.quantization import StoredWeights, up_to
from hybrid_core.design.sections import SECTIONS as NEEDED
from hybrid_core.design.sections import Mamba1Section, Mamba2Section
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.validation import MAX_LAYERS, Frozen, SpecError, short
from pages.parts.design import current

PLAIN = ("name", "vocab_size", "tie_embeddings", "norm_eps", "d_model", "n_layers")
# Of published models: no control, kept as is.
KEPT = (
    "mixers",
    "ffns",
    "post_norm",
    "norm",
    "meta_tokens",
    "outside_params",
    "constants",
    "quantization",
    "state_dtype",
)
SECTIONS = ("attention", "swa", "ssm", "intra", "diff")
BUTTONS = ("form.fit", "form.upload", "form.back", "form.paste")  # what Streamlit lets nobody set
FFN_KINDS: dict[str, type[Frozen]] = {"swiglu": SwiGLU, "mlp": Mlp, "moe": MoE}
SSM_KINDS = {"mamba2": Mamba2Section, "mamba1": Mamba1Section}
STRATEGY_LETTERS = {"transformer": "A", "swa": "AS", "mamba": "M", "inter": "AM", "intra": "HM"}


def field(path: str) -> str:
    """The key of a control in the session."""
    return f"form.{path}"


def value(path: str) -> Any:
    """What a control holds."""
    return st.session_state[field(path)]


def n_layers() -> int:
    """As many as the control asks for; of a number that will be refused no more than it takes to
    refuse it."""
    return max(0, min(value("n_layers") or 0, MAX_LAYERS + 1))


def remember() -> None:
    """Keep what the controls hold that this page does not draw now; Streamlit forgets a control
    that is not drawn."""
    for key in [
        key for key in st.session_state if str(key).startswith("form.") and key not in BUTTONS
    ]:
        st.session_state[key] = st.session_state[key]


def load(spec: ArchSpec) -> None:
    """Fill every control from a design; sections that it lacks come from the worked example."""
    fallback = presets.get(presets.FIRST).spec.replace(diff={})
    state = {key: getattr(spec, key) for key in PLAIN}
    for section in SECTIONS:
        model = getattr(spec, section) or getattr(fallback, section)
        state |= {
            f"{section}.{key}": item
            for key, item in model.model_dump(exclude={"rope_scaling"}).items()
        }
    scaling = spec.attention.rope_scaling if spec.attention else None
    state |= {
        "attention.rope_scaling": scaling is not None,
        "attention.rope_factor": scaling.factor if scaling else 32.0,
    }
    state["intra.ssm_head_dim"] = state["intra.ssm_head_dim"] or 0
    ffn = spec.ffn.model_dump() if spec.ffn else {"kind": "none"}
    state |= {
        "ffn.d_ff": 8192,
        "ffn.n_routed": 8,
        "ffn.top_k": 1,
        "ffn.n_shared": 1,
        "ffn.d_expert": 4096,
    }
    state |= {f"ffn.{key}": item for key, item in ffn.items()}
    state |= _layers_state(spec)
    for path, item in state.items():
        st.session_state[field(path)] = item
    st.session_state.pop("form.strategy_before", None)
    st.session_state["form.sections"] = {section for section in SECTIONS if getattr(spec, section)}
    st.session_state["form.scaling"] = scaling.model_dump() if scaling else None
    st.session_state["form.kept"] = {
        key: item
        for key, item in spec.model_dump(mode="json", exclude_none=True).items()
        if key in KEPT
    }
    st.session_state["form.ffns"] = spec.layers.ffns


def _layers_state(spec: ArchSpec) -> dict[str, Any]:
    """Strategy, ratio and placement controls. Indices as printed show as placement `custom` with
    the ratio that makes as many."""
    layers = spec.layers
    a, b = placement.parse_ratio(layers.ratio) if layers.ratio else (1, 5)
    if layers.indices is not None:
        a, b = next(
            (
                (1, b)
                for b in (0, 1, 3, 5, 12, *range(1, 64))
                if placement.n_expensive(spec.n_layers, (1, b)) == len(layers.indices)
            ),
            (1, 5),
        )
    return {
        "layers.strategy": layers.strategy,
        "layers.a": a,
        "layers.b": b,
        "layers.placement": "custom"
        if layers.indices is not None
        else layers.placement or "middle",
        "layers.indices": _expensive(spec),
        "layers.pattern": spec.letters,
    }


def _expensive(spec: ArchSpec) -> str:
    """The indices of the expensive kind, as the control shows them."""
    letter = placement.MIXTURES.get(spec.layers.strategy, ("A", "M"))[0]
    return ", ".join(str(i) for i, kind in enumerate(spec.letters, start=1) if kind == letter)


def design() -> ArchSpec:
    """The design that the controls describe. Raises SpecError with one line."""
    data: dict[str, Any] = {"schema": 1} | {
        key: "" if value(key) is None else value(key) for key in PLAIN
    }  # an empty box is said
    data["layers"] = _layers()
    kinds = (
        letters()
        if value("layers.strategy") == "custom"
        else STRATEGY_LETTERS[value("layers.strategy")]
    )
    needed = (
        set().union(*(NEEDED.get(letter, ()) for letter in kinds))
        | st.session_state["form.sections"]
    )
    keys = [key for key in st.session_state if isinstance(key, str)]
    for section in SECTIONS:
        if section in needed:
            data[section] = _section(section, keys)
    data["ffn"] = _ffn()
    data |= st.session_state["form.kept"]
    if stored := data.get("quantization"):
        data["quantization"] = up_to([StoredWeights.make(**rule) for rule in stored], n_layers())
    return ArchSpec.from_mapping({key: item for key, item in data.items() if item is not None})


def follow(spec: ArchSpec) -> None:
    """A custom stack, and layers named one by one, start from the stack that was there."""
    st.session_state[field("layers.pattern")] = spec.letters
    if value("layers.placement") != "custom":
        st.session_state[field("layers.indices")] = _expensive(spec)


def _layers() -> dict[str, Any]:
    strategy = value("layers.strategy")
    if strategy == "custom":
        return {"pattern": letters()} | _ffns()
    if strategy in placement.UNIFORM:
        return {"strategy": strategy} | _ffns()
    if value("layers.placement") == "custom":
        return {"strategy": strategy, "indices": _indices(value("layers.indices"))} | _ffns()
    return {
        "strategy": strategy,
        "ratio": f"{value('layers.a')}:{value('layers.b')}",
        "placement": value("layers.placement"),
    } | _ffns()


def letters() -> str:
    """Of a custom stack."""
    return _capitals(value("layers.pattern"))


def _capitals(letters: str) -> str:
    """Those of the usual kinds are capitals; a published model's own may be of either case."""
    return letters.strip() if "mixers" in st.session_state["form.kept"] else letters.strip().upper()


def _ffns() -> dict[str, str]:
    """The feed-forward of each layer, where a published model's differ; as many as there are
    layers."""
    feeds = st.session_state["form.ffns"]
    return {"ffns": (feeds + feeds[-1:] * n_layers())[: n_layers()]} if feeds else {}


def set_kinds(pattern: str) -> None:
    """Make the stack these letters, the strategy custom; what breaks a rule is said and changes
    nothing."""
    pattern = _capitals(pattern)
    if pattern == current().letters:
        return  # a browser may send back what it was told, and that is no wish
    before = {key: value(key) for key in ("layers.strategy", "layers.pattern", "n_layers")}
    changed = {
        "layers.strategy": "custom",
        "layers.pattern": pattern,
        "n_layers": max(1, len(pattern)),
    }
    st.session_state.update({field(key): item for key, item in changed.items()})
    try:
        design()
    except SpecError as error:
        st.session_state.update(
            {field(key): item for key, item in before.items()} | {"form.problem": str(error)}
        )
        return
    if before["layers.strategy"] != "custom":
        st.session_state["form.strategy_before"] = (before["layers.strategy"], before["n_layers"])


def back() -> None:
    """Leave the custom stack for the strategy that it was made from; ratio and placement are as
    they were."""
    strategy, n_layers = st.session_state.pop("form.strategy_before")
    st.session_state.update({field("layers.strategy"): strategy, field("n_layers"): n_layers})


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise SpecError(
            f"layers.indices: {short(text)} - must be layer numbers separated by commas, e.g. 4, 8"
        ) from None


def _section(name: str, keys: list[str]) -> dict[str, Any]:
    prefix = field(f"{name}.")
    section = {
        key.removeprefix(prefix): st.session_state[key] for key in keys if key.startswith(prefix)
    }
    if name == "attention":
        factor, on = section.pop("rope_factor"), section.pop("rope_scaling")
        section["rope_scaling"] = (
            (st.session_state["form.scaling"] or {}) | {"factor": factor} if on else None
        )
    if name == "intra":
        section["ssm_head_dim"] = section["ssm_head_dim"] or None
    if name == "ssm":  # the controls of the other kind keep what they held
        section = {
            key: item
            for key, item in section.items()
            if key in SSM_KINDS[section["kind"]].model_fields
        }
    return section


def _ffn() -> dict[str, Any] | None:
    kind = value("ffn.kind")
    if kind == "none":
        return None
    held = (
        (key, st.session_state.get(field(f"ffn.{key}"))) for key in FFN_KINDS[kind].model_fields
    )
    return {key: item for key, item in held if item is not None}

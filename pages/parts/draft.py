"""What the controls of Compose hold, and the design that it describes."""

from typing import Any

import streamlit as st

from hybrid_core.design import placement, presets
from hybrid_core.design.quantization import StoredWeights, up_to
from hybrid_core.design.sections import SECTIONS as NEEDED
from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.mamba1 import Mamba1Section
from hybrid_core.mixers.mamba2 import Mamba2Section
from hybrid_core.mixers.registry import composable
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
FFN_KINDS: dict[str, type[Frozen]] = {
    "swiglu": SwiGLU,
    "mlp": Mlp,
    "moe": MoE,
}
SSM_KINDS = {"mamba2": Mamba2Section, "mamba1": Mamba1Section}


def field(path: str) -> str:
    """The key of a control in the session."""
    return f"form.{path}"


def value(path: str) -> Any:
    """What a control holds."""
    return st.session_state[field(path)]


def n_layers() -> int:
    """Layers that the control asks for. A number that is too large is cut to the least one that
    the design refuses."""
    return max(0, min(value("n_layers") or 0, MAX_LAYERS + 1))


def remember() -> None:
    """Keep what the controls hold. Streamlit forgets a control that a page does not draw."""
    for key in list(st.session_state):
        if str(key).startswith("form.") and key not in BUTTONS:
            st.session_state[key] = st.session_state[key]


def load(spec: ArchSpec) -> None:
    """Fill every control from a design; sections that it lacks come from the worked example."""
    scaling = spec.attention.rope_scaling if spec.attention else None
    state = {key: getattr(spec, key) for key in PLAIN}
    state |= _sections_state(spec)
    state["attention.rope_scaling"] = scaling is not None
    state["attention.rope_factor"] = scaling.factor if scaling else 32.0
    state |= _ffn_state(spec)
    state |= _layers_state(spec)
    for path, item in state.items():
        st.session_state[field(path)] = item
    st.session_state.pop("form.strategy_before", None)
    st.session_state["form.sections"] = {section for section in SECTIONS if getattr(spec, section)}
    st.session_state["form.scaling"] = scaling.model_dump() if scaling else None
    written = spec.model_dump(mode="json", exclude_none=True)
    st.session_state["form.kept"] = {key: item for key, item in written.items() if key in KEPT}
    st.session_state["form.composed"] = {}
    st.session_state["form.ffns"] = spec.layers.ffns


def _sections_state(spec: ArchSpec) -> dict[str, Any]:
    fallback = presets.get(presets.FIRST).spec.replace(diff={})
    state: dict[str, Any] = {}
    for section in SECTIONS:
        model = getattr(spec, section) or getattr(fallback, section)
        for key, item in model.model_dump(exclude={"rope_scaling"}).items():
            state[f"{section}.{key}"] = item
    state["intra.ssm_head_dim"] = state["intra.ssm_head_dim"] or 0
    return state


def _ffn_state(spec: ArchSpec) -> dict[str, Any]:
    state: dict[str, Any] = {
        "ffn.d_ff": 8192,
        "ffn.n_routed": 8,
        "ffn.top_k": 1,
        "ffn.n_shared": 1,
        "ffn.d_expert": 4096,
    }
    ffn = spec.ffn.model_dump() if spec.ffn else {"kind": "none"}
    for key, item in ffn.items():
        state[f"ffn.{key}"] = item
    return state


def _layers_state(spec: ArchSpec) -> dict[str, Any]:
    """Strategy, ratio and placement controls. Indices as printed show as placement `custom` with
    the ratio that makes as many."""
    layers = spec.layers
    rule = layers.placement or "middle"
    a, b = PAPER_RATIO
    if layers.ratio:
        a, b = placement.parse_ratio(layers.ratio)
    if layers.indices is not None:
        rule = "custom"
        a, b = _ratio_of(len(layers.indices), spec.n_layers)
    return {
        "layers.strategy": layers.strategy,
        "layers.a": a,
        "layers.b": b,
        "layers.placement": rule,
        "layers.indices": _expensive(spec),
        "layers.pattern": spec.letters,
    }


PAPER_RATIO = (1, 5)


def _ratio_of(n_expensive: int, n_layers: int) -> tuple[int, int]:
    """The ratio that makes so many attention (or intra-hybrid) layers; the paper's ratios come
    first."""
    for b in (0, 1, 3, 5, 12, *range(1, 64)):
        if placement.n_expensive(n_layers, (1, b)) == n_expensive:
            return 1, b
    return PAPER_RATIO


def _expensive(spec: ArchSpec) -> str:
    """The indices of the layers that the strategy places, as the control shows them."""
    letter = placement.MIXTURES.get(spec.layers.strategy, ("A", "M"))[0]
    return ", ".join(str(i) for i, kind in enumerate(spec.letters, start=1) if kind == letter)


def design() -> ArchSpec:
    """The design that the controls describe. Raises SpecError with one line."""
    data: dict[str, Any] = {"schema": 1}
    for key in PLAIN:
        # An empty box is an empty text, which the design refuses with its key and rule.
        data[key] = "" if value(key) is None else value(key)
    data["layers"] = _layers()
    needed = set(st.session_state["form.sections"])
    for letter in strategy_letters():
        needed.update(NEEDED.get(letter, ()))
    keys = [key for key in st.session_state if isinstance(key, str)]
    for section in SECTIONS:
        if section in needed:
            data[section] = _section(section, keys)
    data["ffn"] = _ffn()
    data |= st.session_state["form.kept"]
    data["mixers"] = _mixers()
    stored = data.get("quantization")
    if stored:
        data["quantization"] = up_to([StoredWeights.make(**rule) for rule in stored], n_layers())
    return ArchSpec.from_mapping({key: item for key, item in data.items() if item is not None})


def strategy_letters() -> set[str]:
    """The letters of the layers that the controls describe."""
    strategy = value("layers.strategy")
    if strategy == "custom":
        return set(letters())
    return set(placement.MIXTURES[strategy])


def own_mixers() -> dict[str, Any]:
    """The design's own mixers by their letters: those it was opened with, and those composed."""
    kept: dict[str, Any] = st.session_state["form.kept"].get("mixers", {})
    composed: dict[str, Any] = st.session_state["form.composed"]
    return kept | composed


def _mixers() -> dict[str, Any] | None:
    """As `own_mixers`, without composed ones that no layer has any more."""
    kept: dict[str, Any] = st.session_state["form.kept"].get("mixers", {})
    found = dict(kept)
    for letter in strategy_letters():
        if letter in st.session_state["form.composed"]:
            found[letter] = st.session_state["form.composed"][letter]
    return found or None


def follow(spec: ArchSpec) -> None:
    """A custom stack, and layers named one by one, start from the stack that was there."""
    st.session_state[field("layers.pattern")] = spec.letters
    if value("layers.placement") != "custom":
        st.session_state[field("layers.indices")] = _expensive(spec)


def _layers() -> dict[str, Any]:
    strategy, rule = value("layers.strategy"), value("layers.placement")
    layers: dict[str, Any] = {"strategy": strategy}
    if strategy == "custom":
        layers = {"pattern": letters()}
    elif strategy in placement.UNIFORM:
        pass
    elif rule == "custom":
        layers["indices"] = _indices(value("layers.indices"))
    else:
        layers["ratio"] = f"{value('layers.a')}:{value('layers.b')}"
        layers["placement"] = rule
    return layers | _ffns()


def letters() -> str:
    """Of a custom stack."""
    return as_letters(value("layers.pattern"))


def as_letters(typed: str) -> str:
    """What was typed as letters of kinds. Those of the usual kinds are capitals; a design's own may
    be of either case."""
    own = own_mixers()
    found = ""
    for letter in typed.strip():
        found += letter if letter in own else letter.upper()
    return found


def _ffns() -> dict[str, str]:
    """The feed-forward of each layer, where a published model's differ; as many as there are
    layers."""
    feeds = st.session_state["form.ffns"]
    if not feeds:
        return {}
    repeated = feeds + feeds[-1:] * n_layers()
    return {"ffns": repeated[: n_layers()]}


def offered() -> dict[str, str]:
    """The kinds that a layer can be made, by their letters: those with sections, and every other
    one that has usual proportions."""
    usual = composable(current().d_model)
    return placement.LETTERS | {letter: mixer.entry.label for letter, mixer in usual.items()}


def set_kinds(pattern: str) -> None:
    """Make the stack these letters and the strategy custom. If that breaks a rule, show the rule
    and change nothing."""
    if pattern == current().letters:
        return  # the browser has sent back what it was told; nobody asked for a change
    keys = ("layers.strategy", "layers.pattern", "n_layers", "composed")
    before = {field(key): value(key) for key in keys}
    changed = {
        "layers.strategy": "custom",
        "layers.pattern": pattern,
        "n_layers": max(1, len(pattern)),
        "composed": value("composed") | _composed(pattern),
    }
    for key, item in changed.items():
        st.session_state[field(key)] = item
    try:
        design()
    except SpecError as error:
        st.session_state.update(before)
        st.session_state["form.problem"] = str(error)
        return
    strategy = before[field("layers.strategy")]
    if strategy != "custom":
        st.session_state["form.strategy_before"] = (strategy, before[field("n_layers")])


def _composed(pattern: str) -> dict[str, Any]:
    """Layers of the usual proportions for letters that the design has no mixer for yet."""
    usual, known = composable(current().d_model), own_mixers()
    found = {}
    for letter in set(pattern) - set(known):
        if letter in usual:
            mixer = usual[letter]
            found[letter] = {"kind": mixer.kind} | mixer.model_dump(exclude_none=True)
    return found


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
    section = {}
    for key in keys:
        if key.startswith(prefix):
            section[key.removeprefix(prefix)] = st.session_state[key]
    if name == "attention":
        factor, scales = section.pop("rope_factor"), section.pop("rope_scaling")
        before = st.session_state["form.scaling"] or {}
        section["rope_scaling"] = before | {"factor": factor} if scales else None
    if name == "intra":
        section["ssm_head_dim"] = section["ssm_head_dim"] or None
    if name == "ssm":
        # Controls of the other kind keep what they held.
        known = SSM_KINDS[section["kind"]].model_fields
        section = {key: item for key, item in section.items() if key in known}
    return section


def _ffn() -> dict[str, Any] | None:
    kind = value("ffn.kind")
    if kind == "none":
        return None
    found = {}
    for key in FFN_KINDS[kind].model_fields:
        held = st.session_state.get(field(f"ffn.{key}"))
        if held is not None:
            found[key] = held
    return found

"""The draft: the values of the controls of Compose, and the design that they describe."""

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
# Fields that published models fill. They have no control, and are kept as they are.
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
# Streamlit does not let the state of these be set.
BUTTONS = ("form.fit", "form.upload", "form.back", "form.paste")
FFN_KINDS: dict[str, type[Frozen]] = {
    "swiglu": SwiGLU,
    "mlp": Mlp,
    "moe": MoE,
}
SSM_KINDS = {"mamba2": Mamba2Section, "mamba1": Mamba1Section}


def field(path: str) -> str:
    """The session key of a control."""
    return f"form.{path}"


def value(path: str) -> Any:
    """The value of a control."""
    return st.session_state[field(path)]


def n_layers() -> int:
    """The number of layers that the control asks for. A number that is far too large is cut to the
    smallest one that a design rejects."""
    asked = value("n_layers") or 0
    return max(0, min(asked, MAX_LAYERS + 1))


def remember() -> None:
    """Keep the values of the controls: Streamlit forgets a control that a page does not draw."""
    for key in list(st.session_state):
        if str(key).startswith("form.") and key not in BUTTONS:
            st.session_state[key] = st.session_state[key]


def load(spec: ArchSpec) -> None:
    """Fill every control from a design. Sections that it lacks come from the worked example."""
    state = {key: getattr(spec, key) for key in PLAIN}
    state |= _sections_state(spec)
    state |= _scaling_state(spec)
    state |= _ffn_state(spec)
    state |= _layers_state(spec)
    for path, item in state.items():
        st.session_state[field(path)] = item
    _keep_what_has_no_control(spec)


def _keep_what_has_no_control(spec: ArchSpec) -> None:
    scaling = spec.attention.rope_scaling if spec.attention else None
    written = spec.model_dump(mode="json", exclude_none=True)
    state = st.session_state
    state.pop("form.strategy_before", None)
    state["form.sections"] = {section for section in SECTIONS if getattr(spec, section)}
    state["form.scaling"] = scaling.model_dump() if scaling else None
    state["form.kept"] = {key: item for key, item in written.items() if key in KEPT}
    state["form.composed"] = {}
    state["form.ffns"] = spec.layers.ffns


def _scaling_state(spec: ArchSpec) -> dict[str, Any]:
    scaling = spec.attention.rope_scaling if spec.attention else None
    factor = 32.0
    if scaling:
        factor = scaling.factor
    return {"attention.rope_scaling": scaling is not None, "attention.rope_factor": factor}


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
    """The controls of strategy, ratio and placement. Layers that a design lists one by one show as
    placement `custom`, with the ratio that gives as many."""
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
        "layers.indices": _placed(spec),
        "layers.pattern": spec.letters,
    }


PAPER_RATIO = (1, 5)


def _ratio_of(n_placed: int, n_layers: int) -> tuple[int, int]:
    """A ratio that makes `n_placed` attention (or intra-hybrid) layers, one of the paper's if
    possible."""
    for b in (0, 1, 3, 5, 12, *range(1, 64)):
        if placement.n_with_attention(n_layers, (1, b)) == n_placed:
            return 1, b
    return PAPER_RATIO


def _placed(spec: ArchSpec) -> str:
    """The indices of the layers that the strategy places, as the control shows them."""
    letter, _ = placement.MIXTURES.get(spec.layers.strategy, ("A", "M"))
    layers = enumerate(spec.letters, start=1)
    return ", ".join(str(index) for index, kind in layers if kind == letter)


def design() -> ArchSpec:
    """The design that the controls describe. Raises SpecError with one line."""
    data: dict[str, Any] = {"schema": 1}
    for key in PLAIN:
        # The design rejects an empty text with its key and rule, but takes None for "not given".
        data[key] = "" if value(key) is None else value(key)
    data["layers"] = _layers()
    data |= _sections()
    data["ffn"] = _ffn()
    data |= st.session_state["form.kept"]
    data["mixers"] = _mixers()
    data["quantization"] = _quantization()
    given = {key: item for key, item in data.items() if item is not None}
    return ArchSpec.from_mapping(given)


def _sections() -> dict[str, Any]:
    """The sections that the design had when it was opened, and those that its layers need."""
    needed = set(st.session_state["form.sections"])
    for letter in strategy_letters():
        needed.update(NEEDED.get(letter, ()))
    return {section: _section(section) for section in SECTIONS if section in needed}


def _quantization() -> list[StoredWeights] | None:
    """The rules of a design opened with quantized weights, for the layers that it still has."""
    stored = st.session_state["form.kept"].get("quantization")
    if not stored:
        return None
    rules = [StoredWeights.make(**rule) for rule in stored]
    return up_to(rules, n_layers())


def strategy_letters() -> set[str]:
    """The letters of the layers that the controls describe."""
    strategy = value("layers.strategy")
    if strategy == "custom":
        return set(letters())
    return set(placement.MIXTURES[strategy])


def own_mixers() -> dict[str, Any]:
    """The mixers that belong to this design alone, by letter: those it was opened with, and those
    composed since."""
    kept: dict[str, Any] = st.session_state["form.kept"].get("mixers", {})
    composed: dict[str, Any] = st.session_state["form.composed"]
    return kept | composed


def _mixers() -> dict[str, Any] | None:
    """As `own_mixers`, without the composed ones that no layer uses any more."""
    kept: dict[str, Any] = st.session_state["form.kept"].get("mixers", {})
    found = dict(kept)
    for letter in strategy_letters():
        if letter in st.session_state["form.composed"]:
            found[letter] = st.session_state["form.composed"][letter]
    return found or None


def follow(spec: ArchSpec) -> None:
    """Start a custom stack, and layers listed one by one, from the stack on screen."""
    st.session_state[field("layers.pattern")] = spec.letters
    if value("layers.placement") != "custom":
        st.session_state[field("layers.indices")] = _placed(spec)


def _layers() -> dict[str, Any]:
    strategy = value("layers.strategy")
    rule = value("layers.placement")
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
    """The letters of a custom stack."""
    return as_letters(value("layers.pattern"))


def as_letters(typed: str) -> str:
    """The letters that a user meant. The usual kinds have capitals; a design's own mixers may have
    either case."""
    own = own_mixers()
    found = ""
    for letter in typed.strip():
        found += letter if letter in own else letter.upper()
    return found


def _ffns() -> dict[str, str]:
    """The feed-forward of each layer, if a published model's differ: as many as there are
    layers."""
    feeds = st.session_state["form.ffns"]
    if not feeds:
        return {}
    repeated = feeds + feeds[-1:] * n_layers()
    return {"ffns": repeated[: n_layers()]}


def offered() -> dict[str, str]:
    """The kinds of layer that can be picked, by letter: those with a section in the design, and
    every other kind that has usual proportions."""
    usual = composable(current().d_model)
    labels = {letter: mixer.entry.label for letter, mixer in usual.items()}
    return placement.LETTERS | labels


def set_kinds(pattern: str) -> None:
    """Make these letters the stack, and the strategy custom. If they break a rule, show the rule
    and change nothing."""
    if pattern == current().letters:
        return  # the browser sent the current value back; the user changed nothing
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
    _remember_strategy(before)


def _remember_strategy(before: dict[str, Any]) -> None:
    """Remember the strategy that a custom stack was made from, for `back`."""
    strategy = before[field("layers.strategy")]
    if strategy != "custom":
        st.session_state["form.strategy_before"] = (strategy, before[field("n_layers")])


def _composed(pattern: str) -> dict[str, Any]:
    """Mixers of the usual proportions, for letters that the design has no mixer for yet."""
    usual = composable(current().d_model)
    missing = set(pattern) - set(own_mixers())
    found = {}
    for letter in missing:
        if letter in usual:
            mixer = usual[letter]
            found[letter] = {"kind": mixer.kind} | mixer.model_dump(exclude_none=True)
    return found


def back() -> None:
    """Go back from the custom stack to the strategy that it was made from, with the same ratio and
    placement."""
    strategy, n_layers = st.session_state.pop("form.strategy_before")
    st.session_state[field("layers.strategy")] = strategy
    st.session_state[field("n_layers")] = n_layers


def _indices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise SpecError(
            f"layers.indices: {short(text)} - must be layer numbers separated by commas, e.g. 4, 8"
        ) from None


def _section(name: str) -> dict[str, Any]:
    prefix = field(f"{name}.")
    section = {}
    for key in list(st.session_state):
        if isinstance(key, str) and key.startswith(prefix):
            section[key.removeprefix(prefix)] = st.session_state[key]
    if name == "attention":
        section["rope_scaling"] = _rope_scaling(section)
    if name == "intra":
        # The control shows "as in the Mamba layers" as 0.
        section["ssm_head_dim"] = section["ssm_head_dim"] or None
    if name == "ssm":
        # Controls of the other kind keep their values.
        known = SSM_KINDS[section["kind"]].model_fields
        section = {key: item for key, item in section.items() if key in known}
    return section


def _rope_scaling(section: dict[str, Any]) -> dict[str, Any] | None:
    """Take the two controls of the scaling out of the section. The design keeps its other
    parameters, which have no control."""
    factor = section.pop("rope_factor")
    scales = section.pop("rope_scaling")
    if not scales:
        return None
    opened_with: dict[str, Any] = st.session_state["form.scaling"] or {}
    return opened_with | {"factor": factor}


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

"""The controls of the workload and the accelerator."""

from typing import get_args

import streamlit as st

from hybrid_core.evidence.advice.facts import SCENARIOS, Scenario, scenario
from hybrid_core.glossary import explain
from hybrid_core.interop.link import View
from hybrid_core.report import units
from hybrid_core.speed import hardware
from hybrid_core.stored import ComputeDtype, WeightFormat
from hybrid_core.workload import CacheDtype, Workload
from pages.parts import design

CONTEXTS = tuple(2**k for k in range(10, 21))
FIELDS = (
    "context_len",
    "batch_size",
    "weight_dtype",
    "kv_cache_dtype",
    "state_dtype",
    "max_batched_tokens",
)
OWN = "own"  # the design's own; Streamlit would take None for an empty box


def load(view: View, anew: bool = False) -> None:
    """Fill the controls that are empty because Streamlit forgot them while another page was shown;
    with `anew`, fill all of them."""
    held = {field: getattr(view.workload, field) for field in FIELDS}
    held["hardware"] = view.hardware
    for name, item in held.items():
        key = f"work.{name}"
        if anew or key not in st.session_state:
            st.session_state[key] = OWN if item is None else item


def current() -> tuple[Workload, str]:
    """The workload and the key of the accelerator that the controls hold. Raises SpecError with
    one line."""
    held = {field: st.session_state[f"work.{field}"] for field in FIELDS}
    asked = {field: item for field, item in held.items() if item != OWN}
    workload = Workload.make(**asked)
    key: str = st.session_state["work.hardware"]
    # Raises if no peak is known for the accelerator in this dtype.
    hardware.get(key).peak(workload.product_dtype)
    return workload, key


def draw() -> None:
    """Context, batch, number formats and accelerator, in the sidebar."""
    st.subheader("Workload and hardware")
    st.select_slider(
        "Context (tokens)",
        sorted({*CONTEXTS, st.session_state["work.context_len"]}),
        format_func=units.length,
        key="work.context_len",
        help=explain("context"),
    )
    st.number_input(
        "Batch size",
        value=None,
        step=1,
        key="work.batch_size",
        help=explain("batch"),
    )
    left, right = st.columns(2)
    with left:
        _choice("Weights", "weight_dtype", [OWN, *get_args(WeightFormat)])
    with right:
        _choice("KV cache", "kv_cache_dtype", list(get_args(CacheDtype)))
    with left:
        _choice("Scan state", "state_dtype", [OWN, *get_args(ComputeDtype)])
    right.number_input(
        "Prefill chunk",
        value=None,
        step=1024,
        key="work.max_batched_tokens",
        help=explain("max_batched_tokens"),
    )
    _draw_accelerator()
    _draw_advised_context()


def _choice(label: str, field: str, options: list[str]) -> None:
    st.selectbox(
        label,
        options,
        key=f"work.{field}",
        help=explain(field),
    )


def _draw_accelerator() -> None:
    known = hardware.devices()
    st.selectbox(
        "Accelerator",
        list(known),
        format_func=lambda key: known[key].name,
        key="work.hardware",
        help=explain("accelerator"),
    )
    warn_of_calibrations()


def warn_of_calibrations() -> None:
    """A line for each calibration of this machine that cannot be read. Predictions for it use its
    ceilings instead."""
    for line in hardware.unreadable().values():
        st.caption(f":orange[:material/warning:] A calibration is left out: {design.plain(line)}")


def advised_context() -> Scenario | None:
    """The range of contexts that advice is weighted for. It follows the context until the user
    picks another."""
    own = scenario(st.session_state["work.context_len"])
    picked: Scenario | None = st.session_state.get(f"use-{own}", own)
    return picked


def _draw_advised_context() -> None:
    own = scenario(st.session_state["work.context_len"])
    st.segmented_control(
        "Advice for a context",
        list(SCENARIOS),
        default=own,
        format_func=SCENARIOS.__getitem__,
        key=f"use-{own}",
        help=explain("advice_for"),
    )

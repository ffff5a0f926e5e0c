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
OWN = "own"  # the design's; stands for None, which Streamlit takes for a box that holds nothing


def load(view: View, anew: bool = False) -> None:
    """Fill the controls that hold nothing, as when Streamlit forgot them while another page was
    shown; `anew`: all of them."""
    for key, item in {
        **{field: getattr(view.workload, field) for field in FIELDS},
        "hardware": view.hardware,
    }.items():
        if anew or f"work.{key}" not in st.session_state:
            st.session_state[f"work.{key}"] = OWN if item is None else item


def current() -> tuple[Workload, str]:
    """What the controls hold: the workload and the key of the accelerator. Raises SpecError with
    one line."""
    held = {field: st.session_state[f"work.{field}"] for field in FIELDS}
    asked = {field: item for field, item in held.items() if item != OWN}
    workload, key = Workload.make(**asked), st.session_state["work.hardware"]
    hardware.get(key).peak(
        workload.product_dtype
    )  # says so where a device is not known in this dtype
    return workload, key


def draw() -> None:
    """Context, batch, dtypes and device, in the sidebar."""
    st.subheader("Workload and hardware")
    contexts = sorted({*CONTEXTS, st.session_state["work.context_len"]})
    st.select_slider(
        "Context (tokens)",
        contexts,
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
    left.selectbox(
        "Weights",
        [OWN, *get_args(WeightFormat)],
        key="work.weight_dtype",
        help=explain("weight_dtype"),
    )
    right.selectbox(
        "KV cache", get_args(CacheDtype), key="work.kv_cache_dtype", help=explain("kv_cache_dtype")
    )
    left.selectbox(
        "Scan state",
        [OWN, *get_args(ComputeDtype)],
        key="work.state_dtype",
        help=explain("state_dtype"),
    )
    right.number_input(
        "Prefill chunk",
        value=None,
        step=1024,
        key="work.max_batched_tokens",
        help=explain("max_batched_tokens"),
    )
    known = hardware.devices()
    st.selectbox(
        "Accelerator",
        list(known),
        format_func=lambda key: known[key].name,
        key="work.hardware",
        help=explain("accelerator"),
    )
    calibrations_left_out()
    _draw_use()


def calibrations_left_out() -> None:
    """A line for each calibration of this machine that cannot be used: predictions for it rest on
    its ceilings."""
    for line in hardware.unreadable().values():
        st.caption(f":orange[:material/warning:] A calibration is left out: {design.plain(line)}")


def advised_use() -> Scenario | None:
    """The scenario that advice is weighed for: the context's own until another is picked."""
    given = scenario(st.session_state["work.context_len"])
    picked: Scenario | None = st.session_state.get(f"use-{given}", given)
    return picked


def _draw_use() -> None:
    given = scenario(st.session_state["work.context_len"])
    st.segmented_control(
        "Advice for a context",
        list(SCENARIOS),
        default=given,
        format_func=SCENARIOS.__getitem__,
        key=f"use-{given}",
        help=explain("advice_for"),
    )

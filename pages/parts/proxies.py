"""The controls of a proxy's training, which the needle test and the probes share."""

from typing import Any

import streamlit as st

from hybrid_core.live.retrieval.options import NiahOptions
from pages.parts import asked, jobs, layout

FIELD = 180  # pixels

Asked = dict[str, Any]  # the values of the controls


def controls(kind: str) -> Asked:
    """Device, budget and seed of a proxy's training. The size of the proxy follows the device
    unless the user changes it."""
    device_place, budget_place, seed_place = layout.cells(3, FIELD)
    device = jobs.device_choice(device_place, f"{kind}.device")
    budget = asked.number(
        budget_place,
        "Time budget (s)",
        NiahOptions,
        "budget_s",
        step=60,
        key=f"{kind}.budget",
    )
    seed = asked.number(seed_place, "Seed", NiahOptions, "seed", key=f"{kind}.seed")
    with st.expander("Size of the proxy, trials"):
        size = _size_controls(device, f"{kind}.{device}")
        st.caption("Compare designs at the same size, budget and seed.")
    return {"device": device, "budget_s": budget, "seed": seed} | size


def _size_controls(device: str, key: str) -> Asked:
    """The size of the proxy. Each device has its own controls, because its usual size differs."""
    usual = NiahOptions().scale(device.partition(":")[0])
    width, length, trials = layout.cells(3, FIELD)
    return {
        "d_model": asked.number(
            width,
            "d_model of the proxy",
            NiahOptions,
            "d_model",
            step=32,
            usual=usual.d_model,
            key=f"{key}.width",
        ),
        "trained_len": asked.number(
            length,
            "Trained length (tokens)",
            NiahOptions,
            "trained_len",
            step=128,
            usual=usual.trained_len,
            key=f"{key}.length",
        ),
        "trials": asked.number(
            trials,
            "Trials per cell",
            NiahOptions,
            "trials",
            step=50,
            usual=usual.trials,
            key=f"{key}.trials",
        ),
    }

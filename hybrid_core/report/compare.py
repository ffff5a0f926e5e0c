"""Runs side by side: one table, what differs first."""

from collections.abc import Sequence

import pandas as pd

from hybrid_core.report import units
from hybrid_core.runs.store import Run


def label(run: Run) -> str:
    """How a run is called on charts and in tables."""
    return f"#{run.id} {run.name}"


def facts(run: Run) -> dict[str, str]:
    """Every comparable figure of a run, each name ending in its convention."""
    spec, parts, options = run.spec, run.parts, run.options
    found = {"layers": spec.pattern, "d_model": str(spec.d_model), "device": run.device, "status": run.status}
    asked = {key: value for key, value in options.items() if key != "device" and value is not None and not isinstance(value, list)}
    found |= {"d_model of the proxy" if key == "d_model" else key: str(value) for key, value in asked.items()}
    if part := parts.get("environment"):
        found |= {"hardware": part["name"], "torch": part["packages"]["torch"]}
        found["kernels"] = "; ".join(f"{name}: {path}" for name, path in part["kernels"].items())
        found["kernels that ran"] = "; ".join(f"{name}: {path}" for name, path in part.get("kernels_ran", {}).items())
    if part := parts.get("trace"):
        found |= {
            f"{what} FLOPs at {part['seq_len']:,} tokens (traced)": units.flops(part[what]["torch"]) for what in ("forward", "decode")
        }
    for row in parts.get("cache", {}).get("rows", []):
        found[f"cache at {row['context_len']:,} tokens (measured)"] = units.n_bytes(row["live_bytes"])
    if part := parts.get("prefill"):
        found["prefill batch x prompt"] = f"{part['batch_size']} x {part['prompt_len']}"
        found["prefill (measured)"] = units.rate(part["tokens_per_s"])
        found["prefill (predicted)"] = units.rate(part["predicted_tokens_per_s"])
    if (part := parts.get("decode")) and "path" in part:
        found["decode steps"] = part["path"]
    for row in parts.get("generation", {}).get("rows", []):
        name = f"generation to {row['total_len']:,}"
        found[f"{name} (measured)"] = units.rate(row["tokens_per_s"])
        found[f"{name} (predicted)"] = units.rate(row["predicted_tokens_per_s"])
        if "paper_tokens_per_s" in row:
            found[f"{name} (quoted, H200)"] = units.rate(row["paper_tokens_per_s"])
    if part := parts.get("memory"):
        found["peak memory (measured)"] = units.n_bytes(part["peak_bytes"])
        found["weights, cache, activations (exact)"] = units.n_bytes(part["predicted_bytes"]["total"])
    if part := parts.get("energy"):
        joules = part["parts"]["decode"]["joules"]
        found["energy of decode (measured)"] = f"{joules:,.0f} J" if joules is not None else part["note"]
    if (part := parts.get("scores")) and part["at_trained_len"] is not None:
        found[f"needles recalled at {part['trained_len']:,} tokens (measured, proxy)"] = f"{part['at_trained_len']:.0%}"
        found["at 1.5 times that (measured, proxy)"] = "" if part["at_1_5x"] is None else f"{part['at_1_5x']:.0%}"
        found["effective context (measured, proxy)"] = f"{part['effective_context']:,} tokens"
        found["training tokens to 90 % (measured, proxy)"] = (
            units.count(part["tokens_to_learn"]) if part["tokens_to_learn"] else "not reached"
        )
    return found


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Figures as rows, runs as columns; rows in which the runs differ come first."""
    frame = pd.DataFrame({label(run): facts(run) for run in runs}).fillna("")
    names = list(dict.fromkeys(name for run in runs for name in facts(run)))
    frame = frame.reindex(names)
    differs = frame.nunique(axis=1) > 1
    return pd.concat([frame[differs], frame[~differs]])

"""Runs and designs side by side: one table, what differs first."""

import difflib
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, quality
from hybrid_core.report import units
from hybrid_core.report.energy import comparable
from hybrid_core.report.figures import Named, label
from hybrid_core.report.retrieval import reach, scores_of
from hybrid_core.report.text import fits_words
from hybrid_core.runs.store import Run
from hybrid_core.speed.cost import cost
from hybrid_core.speed.hardware import Hardware
from hybrid_core.workload import Workload


def facts(run: Run) -> dict[str, str]:
    """Every comparable figure of a run, each name ending in its convention."""
    spec, parts, options = run.spec, run.parts, run.options
    found = {
        "layers": spec.pattern,
        "d_model": str(spec.d_model),
        "device": run.device,
        "status": run.status,
    }
    asked = {
        key: value
        for key, value in options.items()
        if key != "device" and value is not None and not isinstance(value, list)
    }
    found |= {
        "d_model of the proxy" if key == "d_model" else key: str(value)
        for key, value in asked.items()
    }
    if part := parts.get("environment"):
        found |= {"hardware": part["name"], "torch": part["packages"]["torch"]}
        if "state_dtype" in part:
            found["state_dtype"] = part["state_dtype"]
        found["kernels"] = "; ".join(f"{name}: {path}" for name, path in part["kernels"].items())
        found["kernels that ran"] = "; ".join(
            f"{name}: {path}" for name, path in part.get("kernels_ran", {}).items()
        )
    if part := parts.get("trace"):
        found |= {
            f"{what} FLOPs at {part['seq_len']:,} tokens (traced)": units.flops(part[what]["torch"])
            for what in ("forward", "decode")
        }
    for row in parts.get("cache", {}).get("rows", []):
        found[f"cache at {row['context_len']:,} tokens (measured)"] = units.n_bytes(
            row["live_bytes"]
        )
    if part := parts.get("prefill"):
        found["prefill batch x prompt"] = f"{part['batch_size']} x {part['prompt_len']}"
        found["prefill, tokens at a time"] = str(part.get("chunk_tokens") or "all")
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
        found["weights, cache, activations (exact)"] = units.n_bytes(
            part["predicted_bytes"]["total"]
        )
        if "one_shot_activations" in part:
            found["activations of the prefill at once (exact)"] = units.n_bytes(
                part["one_shot_activations"]
            )
    found |= comparable(parts.get("energy"))
    if (part := parts.get("scores")) and part["at_trained_len"] is not None:
        found[f"needles recalled at {part['trained_len']:,} tokens (measured, proxy)"] = (
            f"{part['at_trained_len']:.0%}"
        )
        found["at 1.5 times that (measured, proxy)"] = (
            "" if part["at_1_5x"] is None else f"{part['at_1_5x']:.0%}"
        )
        found["effective context, tokens (measured, proxy)"] = reach(scores_of(run))
        found["training tokens to 90 % (measured, proxy)"] = (
            units.count(part["tokens_to_learn"]) if part["tokens_to_learn"] else "not reached"
        )
    return found


def design_facts(spec: ArchSpec, workload: Workload, hardware: Hardware) -> dict[str, str]:
    """Every comparable figure of a design: what it is, and what it costs in a workload, each name
    ending in its convention."""
    costs = cost(spec, workload, hardware)
    at, predicted = units.length(workload.context_len), f"(predicted ceiling, {hardware.name})"
    found = {"layers": spec.pattern} | {
        "parameters without embedding (exact)": units.count(costs.params.non_embedding),
        "parameters in all (exact)": units.count(costs.params.total),
        f"training FLOPs per token at {at} (paper)": units.flops(costs.train_flops.paper.per_token),
        f"decode FLOPs per token at {at} (exact)": units.flops(costs.decode_flops_per_token),
        f"cache of a sequence at {at} (exact)": units.n_bytes(costs.cache_bytes.exact),
        f"memory, batch {workload.batch_size} (exact)": units.n_bytes(costs.memory_bytes.total),
        f"fits {hardware.name} (exact)": fits_words(costs.fit.fits, costs.fit.fits_engine),
        f"prefill {predicted}": units.rate(costs.predicted.prefill_tokens_per_s),
        f"decode, batch {workload.batch_size} {predicted}": units.rate(
            costs.predicted.decode_tokens_per_s
        ),
        "generation by the paper's code": baselines.generated(spec, workload.context_len)
        or "not measured",
        "NLL on DCLM": _loss(spec),
        "accuracy, mean of five tasks": _accuracy(spec),
    }
    for key, value in spec.model_dump(
        mode="json", exclude_none=True, exclude={"schema_", "name", "layers"}
    ).items():
        found |= (
            {f"{key}.{name}": str(item) for name, item in value.items()}
            if isinstance(value, dict)
            else {key: str(value)}
        )
    return found


def _loss(spec: ArchSpec) -> str:
    if printed := quality.quoted(spec):
        return str(printed)
    found = quality.estimate(spec)
    if isinstance(found, quality.OutOfRange):
        return "no estimate"
    return f"{found.nll:.3f} ({found.low:.3f} to {found.high:.3f}, estimated, 60B tokens)"


def _accuracy(spec: ArchSpec) -> str:
    printed = quality.quoted(spec)
    return (
        f"{printed.accuracy:.1f} % (quoted, Table {printed.table})"
        if printed and printed.accuracy
        else "not printed"
    )


def named(specs: Sequence[ArchSpec]) -> list[Named]:
    """The designs, those of equal name told apart by a number."""
    seen: Counter[str] = Counter()
    labels = []
    for spec in specs:
        seen[spec.name] += 1
        labels.append(f"{spec.name} ({seen[spec.name]})" if seen[spec.name] > 1 else spec.name)
    return [Named(label, spec) for label, spec in zip(labels, specs, strict=True)]


def yaml_diff(first: ArchSpec, second: ArchSpec) -> str:
    """What to change in the first design's YAML to have the second's, as a unified diff; the rest
    of the file is left out."""
    before, after = (spec.to_yaml().splitlines() for spec in (first, second))
    return "\n".join(difflib.unified_diff(before, after, first.name, second.name, n=0, lineterm=""))


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Figures as rows, runs as columns; rows in which the runs differ come first."""
    return side_by_side([label(run) for run in runs], [facts(run) for run in runs])


def side_by_side(names: Sequence[str], columns: Sequence[dict[str, str]]) -> pd.DataFrame:
    """Figures as rows, one column each; rows in which the columns differ come first."""
    return pd.concat(parted(names, columns))


def parted(
    names: Sequence[str], columns: Sequence[dict[str, str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Figures as rows, one column each: those in which the columns differ, and the others."""
    order = list(dict.fromkeys(key for column in columns for key in column))
    frame = pd.DataFrame(
        {name: pd.Series(column, dtype=object) for name, column in zip(names, columns, strict=True)}
    )
    frame = frame.reindex(order).fillna("")
    differs = frame.nunique(axis=1) > 1
    return frame[differs], frame[~differs]

"""Costs and profiles as text for a terminal. Each number carries its convention."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hybrid_core.report import units
from hybrid_core.runs.store import Run


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def cost_table(record: dict[str, Any]) -> str:
    """What `cost` prints: the summary record as lines of name, value and convention."""
    params, train, cache = record["params"], record["train_flops"], record["cache_bytes"]
    memory, speed, work = record["memory_bytes"], record["predicted"], record["workload"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(layer["kind"] for layer in record["layers"]).items())
    asked = f"batch {work['batch_size']}, context {work['context_len']:,}, prompt {work['prompt_len']:,}, weights {work['weight_dtype']}"
    rows = [
        ("parameters", units.count(params["total"]), "exact"),
        ("  without embedding", units.count(params["non_embedding"]), "exact"),
        ("  active per token", units.count(params["active"]), "exact"),
        *((f"training, per token ({key})", units.flops(value["per_token"]), key) for key, value in train.items()),
        *((f"training, total ({key})", units.flops(value["total"]), key) for key, value in train.items() if "total" in value),
        ("prefill, per sequence", units.flops(record["prefill_flops"]), "exact"),
        ("decode, per token", units.flops(record["decode_flops_per_token"]), "exact"),
        ("cache per sequence, bf16", units.n_bytes(cache["paper"]), "paper"),
        (f"cache per sequence, {work['kv_cache_dtype']}, state {work['state_dtype']}", units.n_bytes(cache["exact"]), "exact"),
        ("memory: weights", units.n_bytes(memory["weights"]), "exact"),
        ("memory: cache, whole batch", units.n_bytes(memory["cache"]), "exact"),
        ("memory: activations of the prefill", units.n_bytes(memory["activations"]), "estimated"),
        ("memory: total", units.n_bytes(memory["total"]), "estimated"),
        (f"prefill at the ceiling of {record['hardware']}", units.rate(speed["prefill_tokens_per_s"]), "predicted"),
        (f"decode at the ceiling of {record['hardware']}", units.rate(speed["decode_tokens_per_s"]), "predicted"),
    ]
    return f"{record['name']}: {kinds}\n{record['pattern']}\n{asked}\n\n{_table(rows)}"


def runs_table(runs: Sequence[Run]) -> str:
    """One line a run, newest first."""
    if not runs:
        return "no runs yet; `python -m hybrid_core profile SPEC` makes one"
    rows = [("run", "status", "device", "created (UTC)", "design", "")]
    rows += [(str(r.id), r.status, r.device, f"{r.created_at}", r.name, r.error or (r.message if r.active else "")) for r in runs]
    return _table(rows)


def profile_table(run: Run) -> str:
    """The parts of a profile that are there, each figure with its convention."""
    parts, lines = run.parts, [f"run {run.id}: {run.name}, {run.status}" + (f" ({run.error})" if run.error else "")]
    if found := parts.get("environment"):
        lines.append(f"{found['name']}, {found['device']}, torch {found['packages']['torch']}, {found['threads']} threads")
    rows = []
    if found := parts.get("trace"):
        for what in ("forward", "decode"):
            counts = found[what]
            agree = "agree" if len(set(counts.values())) == 1 else "DISAGREE"
            name = f"{what} at {found['seq_len']:,} tokens: fvcore, torch, exact {agree}"
            rows.append((name, units.flops(counts["torch"]), "traced"))
    for row in parts.get("cache", {}).get("rows", []):
        agree = "equal" if row["live_bytes"] == row["exact_bytes"] else "NOT EQUAL"
        rows.append(
            (f"cache at {row['context_len']:,} tokens, one sequence ({agree} to exact)", units.n_bytes(row["live_bytes"]), "measured")
        )
    if found := parts.get("prefill"):
        rows.append((f"prefill, batch {found['batch_size']}, prompt {found['prompt_len']}", units.rate(found["tokens_per_s"]), "measured"))
        rows.append(("  at the device's own ceiling", units.rate(found["predicted_tokens_per_s"]), "predicted"))
    for row in parts.get("generation", {}).get("rows", []):
        rows.append((f"generation to {row['total_len']:,} tokens", units.rate(row["tokens_per_s"]), "measured"))
        rows.append(("  at the device's own ceiling", units.rate(row["predicted_tokens_per_s"]), "predicted"))
        if "paper_tokens_per_s" in row:
            rows.append(("  the paper, one H200", units.rate(row["paper_tokens_per_s"]), "quoted"))
    for row in parts.get("generation", {}).get("not_measured", []):
        rows.append((f"generation to {row['total_len']:,} tokens", "not measured", row["why"]))
    if found := parts.get("memory"):
        rows.append((f"peak memory, {found['what']}", units.n_bytes(found["peak_bytes"]), "measured"))
        rows.append(("  weights, cache and activations", units.n_bytes(found["predicted_bytes"]["total"]), "estimated"))
    if found := parts.get("energy"):
        joules = found["parts"]["decode"]["joules"]
        rows.append(
            ("energy of the decode measurements", f"{joules:.0f} J" if joules is not None else found["note"], "measured" if joules else "")
        )
    return "\n".join(lines) + ("\n\n" + _table(rows) if rows else "")

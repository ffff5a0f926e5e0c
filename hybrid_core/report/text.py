"""Costs and profiles as text for a terminal. Each number carries its convention."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hybrid_core.costs.model import Params
from hybrid_core.evidence.advice import Advice
from hybrid_core.evidence.baselines import COUNTS, TABLES
from hybrid_core.evidence.paper_check import Cell
from hybrid_core.evidence.quality.quoted import Quoted
from hybrid_core.interop.published import Model
from hybrid_core.report import units
from hybrid_core.report.energy import energy_lines
from hybrid_core.report.retrieval import not_whole, reach, scores_of
from hybrid_core.runs.store import Run
from hybrid_core.speed.hardware import Hardware


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def cost_table(record: dict[str, Any]) -> str:
    """What `cost` prints: the summary record as lines of name, value and convention."""
    params, train, cache = record["params"], record["train_flops"], record["cache_bytes"]
    memory, speed, work = record["memory_bytes"], record["predicted"], record["workload"]
    kinds = ", ".join(
        f"{n} {kind}" for kind, n in Counter(layer["kind"] for layer in record["layers"]).items()
    )
    asked = f"batch {work['batch_size']}, context {work['context_len']:,}, prompt {work['prompt_len']:,}, weights {work['weight_dtype']}"
    fits = [(view, record["engine"][view]) for view in ("ideal", "paged")]
    rows = [
        ("parameters", units.count(params["total"]), "exact"),
        ("  without embedding", units.count(params["non_embedding"]), "exact"),
        ("  active per token", units.count(params["active"]), "exact"),
        *(
            (f"training, per token ({key})", units.flops(value["per_token"]), key)
            for key, value in train.items()
        ),
        *(
            (f"training, total ({key})", units.flops(value["total"]), key)
            for key, value in train.items()
            if "total" in value
        ),
        ("prefill, per sequence", units.flops(record["prefill_flops"]), "exact"),
        (
            f"decode, per token{_absorbed(record)}",
            units.flops(record["decode_flops_per_token"]),
            "exact",
        ),
        ("cache per sequence, bf16", units.n_bytes(cache["paper"]), "paper"),
        (
            f"cache per sequence, {work['kv_cache_dtype']}, state {work['state_dtype']}",
            units.n_bytes(cache["exact"]),
            "exact",
        ),
        (
            "cache per sequence in vLLM's pages",
            units.n_bytes(cache["paged"]),
            f"paged: {_blocks(record['engine'])}",
        ),
        *(
            (f"most sequences of {work['context_len']:,} tokens", f"{fit['batch_size']:,}", view)
            for view, fit in fits
        ),
        *(
            (f"longest context at batch {work['batch_size']}", f"{fit['context_len']:,}", view)
            for view, fit in fits
        ),
        (f"memory: weights in {work['weight_dtype']}", units.n_bytes(memory["weights"]), "exact"),
        ("memory: cache, whole batch", units.n_bytes(memory["cache"]), "exact"),
        (
            f"memory: activations, {work['max_batched_tokens']:,} tokens at a time",
            units.n_bytes(memory["activations"]),
            "exact",
        ),
        ("memory: total", units.n_bytes(memory["total"]), "exact"),
        (
            f"fits {record['hardware']}",
            fits_words(record["fit"]["fits"], record["fit"]["fits_engine"]),
            f"exact: {units.n_bytes(record['fit']['usable'])} of its memory are used",
        ),
        (
            "a prefill of the batch at once: activations",
            units.n_bytes(memory["one_shot_activations"]),
            "exact",
        ),
        (f"prefill, {speed['basis']}", units.rate(speed["prefill_tokens_per_s"]), "predicted"),
        (f"decode, {speed['basis']}", units.rate(speed["decode_tokens_per_s"]), "predicted"),
    ]
    level = f"\ncosted, not built: {record['not_built']}" if record["not_built"] else ""
    level += "".join(f"\nkernel shape: {line}" for line in record.get("kernel_shapes", []))
    return f"{record['name']}: {kinds}\n{record['pattern']}{level}\n{asked}\n\n{_table(rows)}"


def _absorbed(record: dict[str, Any]) -> str:
    """How latent attention is computed, where there is any."""
    return (
        ""
        if record["latent_attention"] is None
        else " (latent attention: absorbed; prefill: expanded)"
    )


def fits_words(fits: bool, fits_engine: bool) -> str:
    """The verdict of costs/fit.py in a word or two."""
    if not fits:
        return "no"
    return "yes" if fits_engine else "not in vLLM's pages"


def _blocks(engine: dict[str, Any]) -> str:
    """What a page holds."""
    page = units.n_bytes(engine["page_bytes"])
    return f"pages of {page}" + (
        f", {engine['block_tokens']:,} tokens of attention" if engine["block_tokens"] else ""
    )


def models_table(models: dict[str, Model]) -> str:
    """Published models: quoted figures beside those computed here."""
    rows = [
        ("published model", "layers", "parameters", "active", "cache at 8K", "computed", "level")
    ]
    for name, model in models.items():
        quoted, kinds = model.quoted, Counter(layer.letter for layer in model.spec.stack)
        figures = (
            units.count(quoted["total"]),
            units.count(quoted["active"]),
            units.n_bytes(quoted["cache_8k"]),
        )
        differs = [
            f"{key} {value:,}" for key, value in model.computed.items() if value != quoted[key]
        ]
        layers = " ".join(f"{n}{letter}" for letter, n in kinds.items())
        level = f"costed ({model.not_built})" if model.not_built else "built"
        rows.append((name, layers, *figures, ", ".join(differs) or "the same", level))
    return _table(rows)


def imported_line(name: str, params: Params, cache: int, not_built: str | None) -> str:
    """What `import` says beside the YAML."""
    level = f"costed, not built ({not_built})" if not_built else "built"
    total, active, inner = (
        units.count(n) for n in (params.total, params.active, params.non_embedding)
    )
    counts = f"{total} parameters, {active} active, {inner} without embedding"
    return f"{name}: {counts}; cache at 8K {units.n_bytes(cache)} (two bytes an element); {level}"


def quality_lines(found: dict[str, Any]) -> str:
    """What `cost --quality` adds: the NLL printed of the design, the estimate, and the nearest
    printed rows."""
    printed, estimate = found["quoted"], found["estimate"]
    if estimate:
        span = f"{estimate['low']:.3f} to {estimate['high']:.3f} ({estimate['coverage']:.0%})"
        first = f"NLL {estimate['nll']:.3f} nats per token, {span}, at {units.count(estimate['tokens'])} tokens: {estimate['convention']}"
        first += f" ({estimate['basis']}; from {estimate['rests_on']})"
    else:
        first = (
            f"no estimate of NLL, outside the paper's range: {found['outside_the_papers_range']}"
        )
    if printed:
        first = f"NLL {Quoted(**printed)}\n{first}"
    rows: list[tuple[str, ...]] = [
        (
            "nearest rows (60B tokens)",
            "attn",
            "window",
            "Mamba",
            "intra",
            "NLL",
            "accuracy",
            "table",
        )
    ]
    for row in found["nearest"]:
        kinds = (str(row[key]) for key in COUNTS)
        quality = (f"{row['nll_dclm']:.3f}", f"{row['avg']:.1f} %", f"{row['table']}, quoted")
        rows.append((f"  {row['model']} {row['scale']}", *kinds, *quality))
    return f"{first}\n\n{_table(rows)}"


def advice_lines(name: str, given: Sequence[Advice]) -> str:
    """What `advice` prints: one paragraph a rule, with the control that it speaks of and its
    source."""
    if not given:
        return f"{name}: the paper's tables suggest no change, as far as they have rows for such a size and context"
    paragraphs = [
        f"{advice.rule.kind}, {advice.rule.control}: {advice.rule.text} [{advice.sources}]"
        for advice in given
    ]
    return "\n".join(
        textwrap.fill(text, 110, subsequent_indent="  ")
        for text in [f"{name}, {given[0].scenario} context", *paragraphs]
    )


def throughput_ratio_table(rows: Sequence[dict[str, Any]]) -> str:
    """Table 13 beside the roofline of its device, and their ratio."""
    lines = [
        (
            "Table 13, one H200",
            "total length",
            "printed",
            "predicted ceiling",
            "printed / predicted",
        )
    ]
    for row in rows:
        speeds = (
            units.rate(row["paper_tokens_per_s"]),
            units.rate(row["predicted_tokens_per_s"]),
            f"{row['ratio']:.2f}",
        )
        lines.append((row["name"], units.length(row["total_len"]), *speeds))
    return _table(lines)


def quality_table(found: dict[str, Any]) -> str:
    """What `quality` prints: fits and optima with 90 % intervals, leave-one-out errors beside their
    baseline, and whether estimates' own intervals hold."""
    parts = {
        "NLL = E + A / (parameters in B)^alpha + B / (tokens in B)^beta, from Tables 14 and 15": _laws(
            found["laws"]
        ),
        "Compute-optimal size against FLOPs; tokens per parameter from the smallest to the largest budget": _slopes(
            found["slopes"]
        ),
        "NLL without the row itself; baseline: the mean of the other rows of its family, scale and kind of budget": _errors(
            found["accuracy"]
        ),
        "Half of an estimate's 90 % interval, by what the estimate rests on; what a law adds comes on top": _widths(
            found["widths"]
        ),
        "Rows that such intervals hold, predicted and with widths set without them; share with its exact 95 % interval": _coverage(
            found["coverage"]
        ),
    }
    return (
        "\n\n".join(f"{title}\n{_table(rows)}" for title, rows in parts.items())
        + "\n\n"
        + _table(_each_error(found["leave_one_out"]))
    )


def _interval(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f} ({row[f'{key}_low']:.2f} to {row[f'{key}_high']:.2f})"


def _laws(laws: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("family", "E", "A", "B", "alpha", "beta", "mean error")]
    for row in laws:
        constants = (_interval(row, key) for key in ("irreducible", "a", "b", "alpha", "beta"))
        rows.append((row["family"], *constants, f"{row['mean_error']:.3f}"))
    return rows


def _slopes(slopes: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            "family",
            "N ~ FLOPs^",
            "D ~ FLOPs^",
            "tokens/parameter",
            "by the law: N ~ FLOPs^",
            "tokens/parameter",
        )
    ]
    for row in slopes:
        exponents = [
            _interval(row, key)
            for key in ("params_exponent", "tokens_exponent", "law_params_exponent")
        ]
        names = ("tokens_per_param", "law_tokens_per_param")
        ratios = [
            f"{row[key]:.0f} ({row[f'{key}_first']:.0f} to {row[f'{key}_last']:.0f})"
            for key in names
        ]
        rows.append((row["family"], *exponents[:2], ratios[0], exponents[2], ratios[1]))
    return rows


def _errors(accuracy: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("rows", "number", "mean error", "largest", "with baseline", "mean error", "baseline's")
    ]
    for row in accuracy:
        own, beside = ("mean_error", "largest"), ("mean_error_there", "baseline_mean_error")
        numbers = [
            *(f"{row[key]:.4f}" for key in own),
            str(row["rows_with_baseline"]),
            *(f"{row[key]:.4f}" for key in beside),
        ]
        rows.append((row["kind"], str(row["rows"]), *numbers))
    return rows


def _widths(widths: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("it rests on", "half (nats)")]
    return rows + [(row["rests_on"], f"{row['half']:.4f}") for row in widths]


def _coverage(counted: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("left out", "family", "scale", "rows", "held", "share", "95 % interval", "mean half")
    ]
    for row in counted:
        left_out = row["left_out"] if row["kind"] == "all" else f"{row['kind']}, {row['left_out']}"
        share, span = f"{row['share']:.0%}", f"{row['low']:.0%} to {row['high']:.0%}"
        counts, mean_half = (str(row["n"]), str(row["covered"])), f"{row['mean_half']:.3f}"
        rows.append((left_out, row["family"], row["scale"], *counts, share, span, mean_half))
    return rows


def _each_error(errors: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            "family",
            "scale",
            "layers",
            "tokens",
            "table",
            "printed",
            "predicted",
            "error",
            "baseline's error",
        )
    ]
    for row in errors:
        layers = (row["pattern"] or "") + (", experts" if row["experts"] else "")
        what = (row["family"], row["scale"], layers, f"{row['tokens'] / 1e9:.1f}B")
        baseline = "" if row["baseline_error"] is None else f"{row['baseline_error']:+.3f}"
        rows.append(
            (
                *what,
                row["table"],
                f"{row['nll']:.3f}",
                f"{row['predicted']:.3f}",
                f"{row['error']:+.3f}",
                baseline,
            )
        )
    return rows


def calibration_table(device: Hardware) -> str:
    """What `calibrate` measured, and the name under which costs and profiles find it."""
    rates, peak = device.rates, device.peak_flops_per_s.fp32
    assert rates
    rows = [
        ("dense matrix product", f"{peak / 1e9:,.0f} GFLOP/s"),
        ("memory reads", f"{device.bandwidth_bytes_per_s / 1e9:,.1f} GB/s"),
        *(
            (f"product with weights, {n} rows", f"{2 * n / seconds / 1e9:,.1f} GFLOP/s")
            for n, seconds in rates.linear
        ),
        ("causal attention", f"{rates.attention_flops_per_s / 1e9:,.0f} GFLOP/s"),
        ("windowed attention", f"{rates.window_flops_per_s / 1e9:,.0f} GFLOP/s"),
        ("SSD scan", f"{rates.scan_flops_per_s / 1e9:,.0f} GFLOP/s"),
        ("keys and values in decode", f"{rates.kv_bytes_per_s / 1e9:,.1f} GB/s"),
        ("scan state in decode", f"{rates.state_bytes_per_s / 1e9:,.1f} GB/s"),
        ("elementwise work", f"{rates.elementwise_bytes_per_s / 1e9:,.1f} GB/s"),
        *(
            (f"calls of a {kind} layer", units.seconds(seconds))
            for kind, seconds in rates.call_s.items()
        ),
    ]
    return f"{device.name}\nkept as {device.key}: use it with --hardware, or choose it on the Compose page\n\n{_table(rows)}"


def paper_check_table(tables: dict[str, list[Cell]]) -> str:
    """Per table: cells, matches, and each mismatch with its reason."""
    rows = [("table", "cells", "match", "explained", "unexplained")]
    mismatches = [("table", "row", "column", "printed", "computed", "why")]
    for name, cells in tables.items():
        number = TABLES[name][0]
        wrong = [cell for cell in cells if not cell.agrees]
        known = sum(1 for cell in wrong if cell.reason)
        rows.append(
            (
                number,
                str(len(cells)),
                str(len(cells) - len(wrong)),
                str(known),
                str(len(wrong) - known),
            )
        )
        for cell in wrong:
            mismatches.append(
                (
                    number,
                    cell.row,
                    cell.column,
                    cell.printed,
                    f"{cell.computed:.4g}",
                    cell.reason or "UNEXPLAINED",
                )
            )
    total = [sum(int(row[i]) for row in rows[1:]) for i in range(1, 5)]
    return _table([*rows, ("all", *map(str, total))]) + "\n\n" + _table(mismatches)


def runs_table(runs: Sequence[Run]) -> str:
    """One line a run, newest first."""
    if not runs:
        return "no runs yet; `python -m hybrid_core profile SPEC` makes one"
    rows = [("run", "status", "device", "created (UTC)", "design", "")]
    rows += [(str(r.id), r.status, r.device, f"{r.created_at}", r.name, remark(r)) for r in runs]
    return _table(rows)


def remark(run: Run) -> str:
    """What a list says of a run beside its status."""
    if run.foreign:
        return f"cannot be shown: {run.foreign}"
    return run.error or (run.message if run.active else "")


def slow_dtype(run: Run) -> str | None:
    """That the weights' dtype is one that the device multiplies much slower than fp32, if it is."""
    found = run.parts.get("ceilings", {})
    times = found.get("fp32_times", 1.0)
    return (
        f"fp32 products are {times:.3g} times as fast as {found['dtype']} here: prefill is quicker with weights in fp32"
        if times > 1.5
        else None
    )


def kept_in(run: Run) -> str:
    """The dtypes that a profile used."""
    options, found = run.options, run.parts.get("environment", {})
    state = found.get("state_dtype") or options.get(
        "state_dtype"
    )  # earlier versions had no other than the one asked for
    if not state or "dtype" not in options:
        return ""
    return f"weights {options['dtype']}, keys and values {options['kv_cache_dtype']}, scan states {state}"


def in_chunks(prefill: dict[str, Any]) -> str:
    """How a prefill was cut, if it was; earlier versions did it at once."""
    tokens = prefill.get("chunk_tokens")
    return f", {tokens:,} tokens at a time" if tokens else ""


def _prefill_memory(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Activations of the prefill as it was done, and of all of it at once."""
    if "one_shot_activations" not in found:
        return []
    activations, at_once = found["predicted_bytes"]["activations"], found["one_shot_activations"]
    rows: list[tuple[str, ...]] = [
        ("  activations of the prefill as it was done", units.n_bytes(activations), "exact")
    ]
    if activations != at_once:
        rows.append(("  activations of the prefill all at once", units.n_bytes(at_once), "exact"))
    return rows


def profile_table(run: Run) -> str:
    """The parts of a profile that are there, each figure with its convention."""
    parts, lines = run.parts, [_headline(run)]
    if found := parts.get("environment"):
        lines.append(
            f"{found['name']}, {found['device']}, torch {found['packages']['torch']}, {found['threads']} threads"
        )
    if slow := slow_dtype(run):
        lines.append(slow)
    if dtypes := kept_in(run):
        lines.append(dtypes)
    rows: list[tuple[str, ...]] = []
    if found := parts.get("trace"):
        for what in ("forward", "decode"):
            counts = found[what]
            agree = "agree" if len(set(counts.values())) == 1 else "DISAGREE"
            name = f"{what} at {found['seq_len']:,} tokens: fvcore, torch, exact {agree}"
            rows.append((name, units.flops(counts["torch"]), "traced"))
    for row in parts.get("cache", {}).get("rows", []):
        agree = "equal" if row["live_bytes"] == row["exact_bytes"] else "NOT EQUAL"
        rows.append(
            (
                f"cache at {row['context_len']:,} tokens, one sequence ({agree} to exact)",
                units.n_bytes(row["live_bytes"]),
                "measured",
            )
        )
    if found := parts.get("prefill"):
        asked = (
            f"prefill, batch {found['batch_size']}, prompt {found['prompt_len']}{in_chunks(found)}"
        )
        rows.append((asked, units.rate(found["tokens_per_s"]), "measured"))
        rows.append(("  expected here", units.rate(found["predicted_tokens_per_s"]), "predicted"))
    for row in parts.get("generation", {}).get("rows", []):
        rows.append(
            (
                f"generation to {row['total_len']:,} tokens",
                units.rate(row["tokens_per_s"]),
                "measured",
            )
        )
        rows.append(("  expected here", units.rate(row["predicted_tokens_per_s"]), "predicted"))
        if "paper_tokens_per_s" in row:
            rows.append(("  the paper, one H200", units.rate(row["paper_tokens_per_s"]), "quoted"))
    for row in parts.get("generation", {}).get("not_measured", []):
        rows.append((f"generation to {row['total_len']:,} tokens", "not measured", row["why"]))
    if found := parts.get("memory"):
        rows.append(
            (f"peak memory, {found['what']}", units.n_bytes(found["peak_bytes"]), "measured")
        )
        rows.append(
            (
                "  weights, cache and activations",
                units.n_bytes(found["predicted_bytes"]["total"]),
                "exact",
            )
        )
        rows += _prefill_memory(found)
        if live := found.get("activations"):  # runs stored by earlier versions have none
            rows.append(
                (
                    f"activations and cache, prefill of {live['prompt_len']} tokens",
                    units.n_bytes(live["live_bytes"]),
                    "measured",
                )
            )
            rows.append(("  by the closed form", units.n_bytes(live["exact_bytes"]), "exact"))
    rows += energy_lines(parts.get("energy"))
    return "\n".join(lines) + ("\n\n" + _table(rows) if rows else "")


def niah_table(run: Run) -> str:
    """What a retrieval run found: first whether it may be read as a finding, then proxy, training
    and map."""
    parts, lines = run.parts, [_headline(run)]
    if found := parts.get("verdict"):
        lines += [found["text"], parts["proxy"]["note"]]
    if found := parts.get("proxy"):
        lines.append(
            f"proxy {found['pattern']}, {units.count(found['params'])} parameters, trained at {found['trained_len']} tokens"
        )
    if found := parts.get("training"):
        lines.append(_training_line(found))
    if "scores" in parts:
        lines.append(
            f"effective context, tokens: {reach(scores_of(run))} (at least 90 % recalled, 95 % interval)"
        )
    return "\n".join([*lines, *not_whole(run)]) + _map_table(parts)


def _headline(run: Run) -> str:
    return f"run {run.id}: {run.name}, {run.status}" + (f" ({run.error})" if run.error else "")


def _training_line(found: dict[str, Any]) -> str:
    learnt = (
        f"90 % recalled after {units.count(found['tokens_to_learn'])}"
        if found["tokens_to_learn"]
        else "not learnt"
    )
    ended = f"ended: {found['ended']}" if found["ended"] else "not finished"
    return f"{units.count(found['tokens'])} training tokens in {found['seconds']:.0f} s ({ended}), {learnt}"


def _map_table(parts: dict[str, dict[str, Any]]) -> str:
    """Recalled needles in percent, a row per length that was asked."""
    found = parts.get("map")
    if not found or not found["cells"]:
        return ""
    rows = [["recalled, %, by depth", *(f"{depth:.0%}" for depth in found["depths"])]]
    for length in found["lengths"]:
        shares = {
            c["depth"]: f"{100 * c['accuracy']:.0f}"
            for c in found["cells"]
            if c["context_len"] == length
        }
        rows.append([f"{length:,} tokens", *(shares.get(depth, "") for depth in found["depths"])])
    return f"\n\n{_table(rows)}"


def checkpoint_table(run: Run) -> str:
    """The protocol's map on a checkpoint, and the lengths that were refused."""
    parts, lines = run.parts, [_headline(run)]
    if found := parts.get("checkpoint"):
        lines.append(
            f"{found['task']} after the paper's Appendix K, haystack: {found['haystack']} (x {found['haystack_repeats']})"
        )
        lines += [
            f"not run: {row['context_len']:,} tokens {row['why']}" for row in found["not_run"]
        ]
        if found.get("dropped"):  # earlier versions did not say
            lines.append(found["dropped"])
    return "\n".join(lines) + _map_table(parts)


def probes_table(run: Run) -> str:
    """Recall by pairs, copying by length, loss by position."""
    parts, lines = run.parts, [_headline(run)]
    rows: list[tuple[str, str]] = []
    for row in parts.get("recall", {}).get("rows", []):
        rows.append((f"associative recall, {row['n_pairs']} pairs", f"{row['accuracy']:.0%}"))
    for row in parts.get("copying", {}).get("rows", []):
        rows.append(
            (
                f"selective copying, {row['context_len']:,} tokens",
                f"{row['share']:.0%} copied whole",
            )
        )
    for row in parts.get("text", {}).get("rows", []):
        loss = row["nats_per_byte"]
        said = "no number: training diverged" if loss is None else f"{loss:.3f} nats per byte"
        rows.append((f"text, positions {row['from']:,} to {row['to']:,}", said))
    return "\n".join([*lines, *not_whole(run)]) + (f"\n\n{_table(rows)}" if rows else "")


TABLES_OF_KINDS = {
    "profile": profile_table,
    "niah": niah_table,
    "checkpoint": checkpoint_table,
    "probes": probes_table,
}


def run_table(run: Run) -> str:
    """What a run found, by its kind."""
    return TABLES_OF_KINDS[run.kind](run)

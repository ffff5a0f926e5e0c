"""The paper's figure: tokens/s from the prompt to each total length, from timed steps, beside what
was expected and Table 13. No torch."""

from typing import Any

import numpy as np

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.throughput import throughput
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import generation_tokens_per_s
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT

Points = list[tuple[int, float]]  # context in tokens, seconds of a step


def generation_part(
    spec: ArchSpec, options: ProfileOptions, points: Points, hardware: Hardware, decode_path: str
) -> dict[str, Any]:
    """The run's `generation` part: a row per total length that the timed steps reach."""
    quoted, longest = throughput(spec), max(context for context, _ in points)
    rows = []
    for total in (total for total in options.totals if options.prompt_len < total <= longest):
        row: dict[str, Any] = {
            "total_len": total,
            **generation(points, options.prompt_len, total, options.batch_size),
        }
        row["predicted_tokens_per_s"] = generation_tokens_per_s(
            spec, options.workload(total), hardware, options.prompt_len, total
        )
        if quoted and total in quoted.totals:
            row["paper_tokens_per_s"] = quoted.tokens_per_s[quoted.totals.index(total)]
        rows.append(row)
    source = quoted.source if quoted else None
    return {
        "convention": "measured",
        "protocol": _protocol(options, len(points), decode_path),
        "paper_source": source,
        "rows": rows,
    }


def _protocol(options: ProfileOptions, n_contexts: int, decode_path: str) -> str:
    """What was done, in words."""
    of_the_paper = (options.batch_size, options.prompt_len) == (PAPER_BATCH, PAPER_PROMPT)
    asked = f"batch {options.batch_size}, prompt {options.prompt_len}" + (
        " (the paper's, Appendix J)" if of_the_paper else ""
    )
    return f"{asked}; steps ({decode_path}) timed at {n_contexts} contexts and integrated"


def generation(points: Points, prompt_len: int, total_len: int, batch: int) -> dict[str, float]:
    """Tokens/s and latency of generating from `prompt_len` to `total_len`, from (context, seconds
    per step) points.

    Between points the step's time is taken as linear in the context, which attention's reads are;
    outside them it is constant."""
    contexts, seconds = (
        np.array(column, dtype=float) for column in zip(*sorted(points), strict=True)
    )
    grid = np.unique(
        np.concatenate(
            [[prompt_len, total_len], contexts[(contexts > prompt_len) & (contexts < total_len)]]
        )
    )
    latency_s = float(np.trapezoid(np.interp(grid, contexts, seconds), grid))
    return {"tokens_per_s": batch * (total_len - prompt_len) / latency_s, "latency_s": latency_s}

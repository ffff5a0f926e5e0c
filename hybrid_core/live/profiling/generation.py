"""Tokens/s from the prompt to each total length, from timed steps: the paper's throughput figure.

Each row has the measured figure, the predicted one and, if there is one, the figure in Table 13 of
arXiv 2510.04800. No torch.
"""

from typing import NamedTuple

import numpy as np

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.throughput import throughput
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.results import profile as results
from hybrid_core.speed.hardware import Hardware
from hybrid_core.speed.roofline import generation_tokens_per_s
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT

Points = list[tuple[int, float]]  # context in tokens, seconds of a step


def generation_part(
    spec: ArchSpec,
    options: ProfileOptions,
    points: Points,
    hardware: Hardware,
    decode_path: str,
    not_measured: list[results.NotGenerated],
) -> results.Generation:
    """The `generation` part of the run: a row per total length that the timed steps cover."""
    quoted = throughput(spec)
    longest = max(context for context, _ in points)
    rows = []
    for total in options.totals:
        if not options.prompt_len < total <= longest:
            continue
        row = _row(spec, options, points, hardware, total)
        if quoted and total in quoted.totals:
            of_paper = quoted.tokens_per_s[quoted.totals.index(total)]
            row = row.model_copy(update={"paper_tokens_per_s": of_paper})
        rows.append(row)
    return results.Generation(
        convention="measured",
        protocol=_protocol(options, len(points), decode_path),
        paper_source=quoted.source if quoted else None,
        rows=tuple(rows),
        not_measured=tuple(not_measured),
    )


def _row(
    spec: ArchSpec,
    options: ProfileOptions,
    points: Points,
    hardware: Hardware,
    total_len: int,
) -> results.GenerationRow:
    """One total length, measured and predicted."""
    measured = generation(
        points,
        options.prompt_len,
        total_len,
        options.batch_size,
    )
    predicted_tokens_per_s = generation_tokens_per_s(
        spec,
        options.workload(total_len),
        hardware,
        options.prompt_len,
        total_len,
    )
    return results.GenerationRow(
        total_len=total_len,
        tokens_per_s=measured.tokens_per_s,
        latency_s=measured.latency_s,
        predicted_tokens_per_s=predicted_tokens_per_s,
    )


def _protocol(options: ProfileOptions, n_contexts: int, decode_path: str) -> str:
    """A one-line description of the measurement's protocol."""
    asked = f"batch {options.batch_size}, prompt {options.prompt_len}"
    is_paper = options.batch_size == PAPER_BATCH and options.prompt_len == PAPER_PROMPT
    if is_paper:
        asked += " (the paper's, Appendix J)"
    return f"{asked}; steps ({decode_path}) timed at {n_contexts} contexts and integrated"


class Generated(NamedTuple):
    """How fast a batch was generated, without the prefill."""

    tokens_per_s: float
    latency_s: float


def generation(
    points: Points,
    prompt_len: int,
    total_len: int,
    batch: int,
) -> Generated:
    """Speed of generating from `prompt_len` to `total_len`, for the whole batch.

    `points` are pairs of a context and the seconds of a step there. Between two points, the time of
    a step is taken as linear in the context, like the time to read the KV cache. Outside them, it
    is taken as constant. The latency is the integral of this curve.
    """
    contexts, seconds = np.array(sorted(points), dtype=float).T
    is_between = (contexts > prompt_len) & (contexts < total_len)
    ends = [prompt_len, total_len]
    grid = np.unique(np.concatenate([ends, contexts[is_between]]))
    step_s = np.interp(grid, contexts, seconds)
    latency_s = float(np.trapezoid(step_s, grid))
    n_generated = batch * (total_len - prompt_len)
    return Generated(n_generated / latency_s, latency_s)

"""Table 13: how fast the paper's own code generated on one H200, next to the ceiling of that
device."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pandas as pd

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import baselines, errata
from hybrid_core.speed import hardware
from hybrid_core.speed.roofline import generation_tokens_per_s
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT, Workload

# column of Table 13 -> total length in tokens, prompt included
TOTALS = {
    "2k": 2048,
    "4k": 4096,
    "8k": 8192,
    "16k": 16384,
    "32k": 32768,
}


class Throughput(NamedTuple):
    """A row of Table 13: total lengths, tokens/s of all four sequences, and its source."""

    totals: list[int]
    tokens_per_s: list[float]
    source: str


def throughput_of(layer_counts: tuple[int, ...]) -> Throughput | None:
    """Table 13's row for these counts (in the order of COUNTS) of the paper's 1B layers, or
    None."""
    name = "table13_throughput"
    for row in baselines.table(name).to_dict("records"):
        printed = tuple(row[column] for column in baselines.COUNTS)
        if errata.meant_layers(name, printed) == layer_counts:
            totals = list(TOTALS.values())
            speeds = [float(row[f"tput_{key}"]) for key in TOTALS]
            return Throughput(totals, speeds, baselines.cite(name))
    return None


def throughput(spec: ArchSpec) -> Throughput | None:
    """Table 13's row for a design with the paper's 1B dimensions, or None."""
    if baselines.scale(spec) != "1B" or not baselines.is_papers(spec):
        return None
    return throughput_of(baselines.counts(spec))


@lru_cache(maxsize=256)
def beside_ceiling(spec: ArchSpec) -> tuple[dict[str, Any], ...]:
    """A design's row of Table 13 next to the roofline of its device, one record per total length.
    Empty if the table has no such row."""
    printed = throughput(spec)
    if printed is None:
        return ()
    device = hardware.get("h200_sxm")
    rows = []
    for total, tokens_per_s in zip(printed.totals, printed.tokens_per_s, strict=True):
        work = Workload(
            batch_size=PAPER_BATCH,
            context_len=total,
            prompt_len=PAPER_PROMPT,
        )
        ceiling = float(
            generation_tokens_per_s(
                spec,
                work,
                device,
                PAPER_PROMPT,
                total,
            )
        )
        row = {
            "name": spec.name,
            "total_len": total,
            "paper_tokens_per_s": tokens_per_s,
            "predicted_tokens_per_s": ceiling,
            "paper_a_sequence": tokens_per_s / PAPER_BATCH,
            "ratio": tokens_per_s / ceiling,
        }
        rows.append(row)
    return tuple(rows)


def nearest_length(spec: ArchSpec, context_len: int) -> dict[str, Any] | None:
    """The record of `beside_ceiling` at the total length nearest to a context, or None."""

    def distance(row: dict[str, Any]) -> int:
        return abs(int(row["total_len"]) - context_len)

    return min(beside_ceiling(spec), key=distance, default=None)


def generated(spec: ArchSpec, context_len: int) -> str | None:
    """A sentence that quotes Table 13 for a design near a context: tokens/s per sequence, and the
    source. None if the table has no such row."""
    row = nearest_length(spec, context_len)
    if row is None:
        return None
    speed = f"{row['paper_a_sequence']:,.0f} tokens/s per sequence to {row['total_len']:,} tokens"
    return f"{speed} (quoted, one H200, batch {PAPER_BATCH}, Table 13)"


def throughput_ratios() -> tuple[dict[str, Any], ...]:
    """Table 13's tokens/s next to the roofline's ceiling for the H200 that they were measured on,
    per preset and total length.

    The paper measured its own code, so nothing is fitted here. The ratio says how far that code was
    from the ceiling."""
    return tuple(_all_ratios())


def _all_ratios() -> Iterator[dict[str, Any]]:
    for name in presets.ordered():
        yield from beside_ceiling(presets.get(name).spec)


def quality_and_speed(total_len: int) -> pd.DataFrame:
    """Table 9's rows at 60B tokens with Table 13's `tokens_per_s` at one total length: the data of
    Figure 1b."""
    rows = baselines.table("table09_1b").query("budget == 'data'").copy()
    speeds = []
    labels = []
    for printed in rows[baselines.COUNTS].to_numpy():
        layers = tuple(int(count) for count in printed)
        speeds.append(_speed_at(layers, total_len))
        labels.append("+".join(str(count) for count in layers if count))
    return rows.assign(tokens_per_s=speeds, layers=labels)


def _speed_at(layers: tuple[int, ...], total_len: int) -> float:
    """tokens/s as printed, or NaN."""
    row = throughput_of(layers)
    if row is None:
        return float("nan")
    column = row.totals.index(total_len)
    return row.tokens_per_s[column]

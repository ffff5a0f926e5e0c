"""The paper's tables as data frames with provenance, and which of their rows describe a given
design."""

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.sections import SECTIONS
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import errata
from hybrid_core.speed import hardware
from hybrid_core.speed.roofline import generation_tokens_per_s
from hybrid_core.workload import PAPER_BATCH, PAPER_PROMPT, Workload

CITATION = "Bae et al., Hybrid Architectures for Language Models, arXiv 2510.04800v3, CC BY 4.0"

# file -> (number of the table, what it shows)
TABLES: dict[str, tuple[str, str]] = {
    "table03_downstream": ("3", "Downstream tasks after fine-tuning"),
    "table04_moe": ("4", "Mixture of experts"),
    "table06_intra_summary": ("6", "Intra-hybrid variants, summary"),
    "table08_configs": ("8", "Dimensions at four scales"),
    "table09_1b": ("9", "Quality and costs of every ratio, 1B"),
    "table10_350m": ("10", "Quality and costs of every ratio, 350M"),
    "table11_swa_position": ("11", "Position of global attention among windows, 1B"),
    "table12_long_context": ("12", "Training at 16K and 32K, 1B"),
    "table13_throughput": ("13", "Throughput and latency, one H200, batch 4, prompt 512"),
    "table14_15_scaling": ("14 and 15", "Loss at four sizes and five budgets"),
    "table15_intra_configs": ("15", "Dimensions of the intra-hybrid models"),
    "table17_inter_position": ("17", "Position of attention among Mamba blocks"),
    "table18_19_intra_variants": ("18 and 19", "Every intra-hybrid variant"),
    "table20_dim_ratio": ("20", "Widths of the two branches"),
    "table21_intra_position": ("21", "Position of intra-hybrid blocks, 1B"),
}
# Words for the columns of the CSV files; the others are called as in the field or as in the paper.
_HEADINGS = {
    "n_emb_b": "parameters without embedding (B)",
    "emb_b": "parameters of the embedding (B)",
    "active_b": "active parameters (B)",
    "total_b": "parameters (B)",
    "n_attn": "attention layers",
    "n_swa": "window layers",
    "n_ssm": "Mamba layers",
    "n_hyb": "intra-hybrid layers",
    "n_layers": "layers",
    "n_heads_attn": "attention heads",
    "n_heads_ssm": "SSM heads",
    "attn_indices": "attention layers at",
    "intra_indices": "intra-hybrid layers at",
    "dim_transformer": "width of the attention branch",
    "dim_mamba": "width of the Mamba branch",
    "tokens_b": "training tokens (B)",
    "steps_k": "training steps (K)",
    "train_flops": "training FLOPs",
    "context_len": "context (tokens)",
    "cache_mib": "cache of a sequence (MiB)",
    "nll_dclm": "NLL DCLM (nats)",
    "nll_pg19": "NLL PG19 (nats)",
    "lambada": "LAMBADA (%)",
    "hellaswag": "HellaSwag (%)",
    "piqa": "PIQA (%)",
    "arc": "ARC (%)",
    "obqa": "OBQA (%)",
    "avg": "accuracy, mean (%)",
    "govreport": "GovReport",
    "squad": "SQuAD",
    "triviaqa": "TriviaQA",
}
COUNTS = ["n_attn", "n_swa", "n_ssm", "n_hyb"]
# The paper's name for a scale, by d_model (Table 8).
SCALES = {1024: "100M", 1536: "350M", 2048: "1B", 3072: "3B"}
TOTALS = {"2k": 2048, "4k": 4096, "8k": 8192, "16k": 16384, "32k": 32768}


@cache
def table(name: str) -> pd.DataFrame:
    """One table, figures as printed; missing counts are 0. `attrs` hold its number, title and
    citation."""
    frame = pd.read_csv(PROFILES / "paper" / f"{name}.csv")
    present = [column for column in COUNTS if column in frame.columns]
    frame[present] = frame[present].fillna(0).astype(int)
    number, title = TABLES[name]
    frame.attrs = {"table": number, "title": title, "citation": CITATION}
    return frame


def heading(column: str) -> str:
    """What a column of a table shows, with its unit."""
    for key, says in (("tput_", "tokens/s at {} total"), ("latency_s_", "seconds to {} total")):
        if column.startswith(key):
            return says.format(column.removeprefix(key).upper())
    return _HEADINGS.get(column, column)


def cite(name: str) -> str:
    """`Table 9, arXiv 2510.04800v3` for a chart's foot."""
    return f"Table {TABLES[name][0]}, Bae et al., arXiv 2510.04800v3"


def counts(spec: ArchSpec) -> tuple[int, ...]:
    """How many layers of each kind, in the order of COUNTS; differential layers are in none of
    them."""
    return tuple(spec.pattern.count(letter) for letter in "ASMH")


def scale(spec: ArchSpec) -> str | None:
    """The paper's name for a design of this width, if it has one."""
    return SCALES.get(spec.d_model)


def is_papers(spec: ArchSpec) -> bool:
    """Whether the design has the dimensions of the paper's scale, so that its rows describe it and
    not only resemble it."""
    label = scale(spec)
    if label is None or sum(counts(spec)) < spec.n_layers:
        return False
    sections = (
        "attention",
        "swa",
        "ssm",
        "intra",
        "ffn",
        "d_model",
        "vocab_size",
        "tie_embeddings",
    )
    known = presets.get(_preset_with_dimensions(label, spec.pattern)).spec
    needed = {"ffn", "d_model", "vocab_size", "tie_embeddings"}.union(
        *(SECTIONS[letter] for letter in set(spec.pattern))
    )
    return all(getattr(spec, key) == getattr(known, key) for key in sections if key in needed)


def _preset_with_dimensions(label: str, pattern: str) -> str:
    """The preset that holds a scale's dimensions: Llama's has those of every mixer, but a stack of
    intra-hybrid blocks alone has its own.

    At 350M its branches are wider than those of a block among Mamba layers (896 and 1792 against
    768 and 1536, Table 20)."""
    alone = f"intra-1to0-{label.lower()}"
    return alone if set(pattern) == {"H"} and alone in presets.names() else f"llama-{label.lower()}"


def matching(spec: ArchSpec, name: str) -> pd.DataFrame:
    """The rows of a table whose layer counts (and scale, where printed) are those of the design."""
    frame = table(name)
    present = [column for column in COUNTS if column in frame.columns]
    wanted = dict(zip(COUNTS, counts(spec), strict=True))
    mask = pd.Series(sum(counts(spec)) == spec.n_layers, index=frame.index)
    for column in present:
        mask &= frame[column] == wanted[column]
    if "scale" in frame.columns:
        mask &= frame["scale"] == scale(spec)
    elif scale(spec) != "1B":
        mask &= False
    return frame[mask]


def nearest(spec: ArchSpec, n: int = 5) -> pd.DataFrame:
    """The rows of Tables 9 and 10 (60B tokens each) closest to the design: first by the shares of
    its kinds of layer, then by size.

    `distance` is the share of layers (0 to 1) that would have to change kind. Another scale than
    the design's counts as one more."""
    rows = pd.concat(
        [table("table09_1b").assign(table="9"), table("table10_350m").assign(table="10")],
        ignore_index=True,
    )
    rows = rows[rows["budget"] == "data"].copy()
    shares = rows[COUNTS].div(rows[COUNTS].sum(axis=1), axis=0)
    own = [count / spec.n_layers for count in counts(spec)]
    rows["distance"] = 1 - np.minimum(shares, own).sum(axis=1)
    other_scale = (rows["scale"] != (scale(spec) or "1B")).astype(float)
    return (
        rows.assign(_rank=rows["distance"] + other_scale)
        .sort_values(["_rank", "table"])
        .drop(columns="_rank")
        .head(n)
    )


class Throughput(NamedTuple):
    """A row of Table 13 for one design: total lengths, tokens/s, and its source."""

    totals: list[int]
    tokens_per_s: list[float]
    source: str


def throughput_of(layer_counts: tuple[int, ...]) -> Throughput | None:
    """Table 13's row for these counts (in the order of COUNTS) of the paper's 1B layers, or
    None."""
    frame = table("table13_throughput")
    meant = [
        errata.meant_layers("table13_throughput", tuple(row)) for row in frame[COUNTS].to_numpy()
    ]
    rows = frame[[layers == layer_counts for layers in meant]]
    if rows.empty:
        return None
    row = rows.iloc[0]
    return Throughput(
        list(TOTALS.values()),
        [float(row[f"tput_{key}"]) for key in TOTALS],
        cite("table13_throughput"),
    )


def throughput(spec: ArchSpec) -> Throughput | None:
    """Table 13's row for a design with the paper's 1B dimensions, or None."""
    return throughput_of(counts(spec)) if scale(spec) == "1B" and is_papers(spec) else None


@lru_cache(maxsize=256)
def beside_ceiling(spec: ArchSpec) -> tuple[dict[str, Any], ...]:
    """A design's row of Table 13 beside the roofline of its device, a record per total length; none
    where it has no such row."""
    if (printed := throughput(spec)) is None:
        return ()
    device, rows = hardware.get("h200_sxm"), []
    for total, tokens_per_s in zip(printed.totals, printed.tokens_per_s, strict=True):
        work = Workload(batch_size=PAPER_BATCH, context_len=total, prompt_len=PAPER_PROMPT)
        ceiling = float(generation_tokens_per_s(spec, work, device, PAPER_PROMPT, total))
        row = {
            "name": spec.name,
            "total_len": total,
            "paper_tokens_per_s": tokens_per_s,
            "predicted_tokens_per_s": ceiling,
        }
        row["paper_a_sequence"] = tokens_per_s / PAPER_BATCH
        rows.append(row | {"ratio": tokens_per_s / ceiling})
    return tuple(rows)


def nearest_length(spec: ArchSpec, context_len: int) -> dict[str, Any] | None:
    """Of these records the one at the total length nearest to a context."""
    return min(
        beside_ceiling(spec), key=lambda row: abs(row["total_len"] - context_len), default=None
    )


def generated(spec: ArchSpec, context_len: int) -> str | None:
    """What Table 13 prints of a design there, for each of its sequences, with its source."""
    if (row := nearest_length(spec, context_len)) is None:
        return None
    use = f"one H200, batch {PAPER_BATCH}, Table 13"
    return f"{row['paper_a_sequence']:,.0f} tokens/s a sequence to {row['total_len']:,} tokens (quoted, {use})"


def quality_and_speed(total_len: int) -> pd.DataFrame:
    """Table 9's rows at 60B tokens with Table 13's `tokens_per_s` at one total length: the data of
    Figure 1b."""
    rows = table("table09_1b").query("budget == 'data'").copy()
    keys = [tuple(int(n) for n in key) for key in rows[COUNTS].to_numpy()]
    found = [throughput_of(key) for key in keys]
    rows["tokens_per_s"] = [
        row.tokens_per_s[row.totals.index(total_len)] if row else float("nan") for row in found
    ]
    rows["layers"] = ["+".join(str(n) for n in key if n) for key in keys]
    return rows

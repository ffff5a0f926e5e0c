"""The paper's tables as data frames with their source, and the rows that describe a design."""

from functools import cache

import numpy as np
import pandas as pd

from hybrid_core.data import PROFILES
from hybrid_core.design import presets
from hybrid_core.design.sections import SECTIONS
from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.side_by_side import SideBySideMixer
from hybrid_core.mixers.swa import SwaMixer

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
# Headings of the CSV columns; the other columns already have the field's name.
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
# Column of a table -> the kind of layer that it counts. The paper's Mamba layers are Mamba-2.
COUNTED: dict[str, type[Mixer]] = {
    "n_attn": AttentionMixer,
    "n_swa": SwaMixer,
    "n_ssm": Mamba2Mixer,
    "n_hyb": IntraMixer,
}
COUNTS = list(COUNTED)
# The paper's name for a scale, by d_model (Table 8).
SCALES = {
    1024: "100M",
    1536: "350M",
    2048: "1B",
    3072: "3B",
}
PAPER_CONTEXT = 8192  # training length in tokens, unless a table prints another


@cache
def table(name: str) -> pd.DataFrame:
    """One table, figures as printed; missing counts are 0. `attrs` hold its number, title and
    citation."""
    frame = pd.read_csv(PROFILES / "paper" / f"{name}.csv")
    present = _printed_counts(frame)
    frame[present] = frame[present].fillna(0).astype(int)
    number, title = TABLES[name]
    frame.attrs = {"table": number, "title": title, "citation": CITATION}
    return frame


def _printed_counts(frame: pd.DataFrame) -> list[str]:
    return [column for column in COUNTS if column in frame.columns]


def heading(column: str) -> str:
    """What a column of a table shows, with its unit."""
    if column.startswith("tput_"):
        return f"tokens/s at {column.removeprefix('tput_').upper()} total"
    if column.startswith("latency_s_"):
        return f"seconds to {column.removeprefix('latency_s_').upper()} total"
    return _HEADINGS.get(column, column)


def cite(name: str) -> str:
    """`Table 9, Bae et al., arXiv 2510.04800v3`, for a chart's foot."""
    number, _ = TABLES[name]
    return f"Table {number}, Bae et al., arXiv 2510.04800v3"


def counts(spec: ArchSpec) -> tuple[int, ...]:
    """How many layers of each kind the design has, in the order of COUNTS. Kinds that the paper's
    tables do not count, such as differential attention and Mamba-1, are left out."""
    kinds = [type(layer.mixer) for layer in spec.stack]
    return tuple(kinds.count(counted) for counted in COUNTED.values())


def scale(spec: ArchSpec) -> str | None:
    """The paper's name for a design of this width, if it has one."""
    return SCALES.get(spec.d_model)


def is_papers(spec: ArchSpec) -> bool:
    """Whether the design has the dimensions of the paper's scale. Only then do the paper's rows
    describe it."""
    label = scale(spec)
    if label is None or sum(counts(spec)) < spec.n_layers:
        return False
    known = presets.get(_preset_with_dimensions(label, spec.pattern)).spec
    needed = {"ffn", "d_model", "vocab_size", "tie_embeddings"}
    for letter in set(spec.pattern):
        needed |= set(SECTIONS[letter])
    return all(getattr(spec, key) == getattr(known, key) for key in needed)


def _preset_with_dimensions(label: str, pattern: str) -> str:
    """The preset that carries a scale's dimensions. Llama's preset has them for every mixer, but a
    stack of intra-hybrid blocks alone has its own.

    At 350M its branches are wider than those of a block among Mamba layers (896 and 1792 against
    768 and 1536, Table 20)."""
    alone = f"intra-1to0-{label.lower()}"
    if set(pattern) == {"H"} and alone in presets.names():
        return alone
    return f"llama-{label.lower()}"


def matching(spec: ArchSpec, name: str) -> pd.DataFrame:
    """The rows of a table with the design's layer counts, and with its scale if the table prints
    one."""
    frame = table(name)
    wanted = dict(zip(COUNTS, counts(spec), strict=True))
    all_counted = sum(counts(spec)) == spec.n_layers
    mask = pd.Series(all_counted, index=frame.index)
    for column in _printed_counts(frame):
        mask &= frame[column] == wanted[column]
    if "scale" in frame.columns:
        mask &= frame["scale"] == scale(spec)
    elif scale(spec) != "1B":  # a table without scales holds 1B models
        mask &= False
    return frame[mask]


def nearest(spec: ArchSpec, n: int = 5) -> pd.DataFrame:
    """The rows of Tables 9 and 10 (60B tokens each) closest to the design: first by the share of
    each kind of layer, then by size.

    `distance` is the share of layers (0 to 1) that would have to change kind. A row of another
    scale than the design's ranks as if its distance were larger by 1. Mamba-1 counts as
    Mamba-2, mixers side by side as an intra-hybrid block (see `unlike_the_papers`). Other kinds
    that the paper did not train match no row."""
    large = table("table09_1b").assign(table="9")
    small = table("table10_350m").assign(table="10")
    rows = pd.concat([large, small], ignore_index=True)
    rows = rows[rows["budget"] == "data"].copy()
    shares = rows[COUNTS].div(rows[COUNTS].sum(axis=1), axis=0)
    own_shares = _shares_of_resembling(spec)
    rows["distance"] = 1 - np.minimum(shares, own_shares).sum(axis=1)
    other_scale = rows["scale"] != (scale(spec) or "1B")
    rows["_rank"] = rows["distance"] + other_scale.astype(float)
    ranked = rows.sort_values(["_rank", "table"])
    return ranked.drop(columns="_rank").head(n)


def _shares_of_resembling(spec: ArchSpec) -> list[float]:
    """Share of the design's layers that are of each counted kind, or resemble it; in the order of
    COUNTS."""
    kinds = [_resembled(layer.mixer) for layer in spec.stack]
    return [kinds.count(counted) / spec.n_layers for counted in COUNTED.values()]


def _resembled(mixer: Mixer) -> type[Mixer]:
    """The kind of layer in the paper's tables that comes closest to a layer, else its own kind."""
    if isinstance(mixer, Mamba1Mixer):
        return Mamba2Mixer
    if isinstance(mixer, SideBySideMixer):
        return IntraMixer
    return type(mixer)


def unlike_the_papers(spec: ArchSpec) -> str:
    """A caveat for the nearest rows: how the design's layers differ from the kinds they count as.
    Empty if they do not differ."""
    kinds: set[type[Mixer]] = set()
    for layer in spec.stack:
        mixers: list[Mixer] = [layer.mixer]
        if isinstance(layer.mixer, IntraMixer):
            mixers.append(layer.mixer.ssm)
        if isinstance(layer.mixer, SideBySideMixer):
            mixers.extend(layer.mixer.branches)
        kinds.update(type(mixer) for mixer in mixers)
    notes = []
    if Mamba1Mixer in kinds:
        notes.append("The paper measured Mamba-2; this design's Mamba layers are Mamba-1.")
    if SideBySideMixer in kinds:
        notes.append(
            "The paper measured intra-hybrid blocks; this design adds complete mixers side by side."
        )
    return " ".join(notes)

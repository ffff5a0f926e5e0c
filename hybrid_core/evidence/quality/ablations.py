"""Effects of single choices: pairs of printed rows that differ in one of them.

NLL is the DCLM validation loss in nats per token. Accuracy (`avg`) is the mean of five few-shot
tasks in percent."""

import pandas as pd

from hybrid_core.evidence import baselines, errata

# ratio -> share of the layers with attention or an intra-hybrid block
RATIOS = {
    "1:0": 1.0,
    "1:1": 1 / 2,
    "1:3": 1 / 4,
    "1:5": 1 / 6,
    "1:12": 1 / 13,
    "0:1": 0.0,
}
# axis of the intra-hybrid block -> the paper's choice
AXES = {
    "norm": "group",
    "scalar": "none",
    "fusion": "diff",
    "value": "sep",
    "out": "sep",
}


def _against(
    name: str, axis: str, base: str | float, same: list[str], rows: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Rows of a table whose `axis` is `changed` from `base` and which agree in `same`: NLL and
    accuracy of both, and the differences."""
    frame = baselines.table(name) if rows is None else rows
    frame = frame[[*same, axis, "nll_dclm", "avg"]]
    frame = frame.rename(columns={axis: "changed"})
    other = frame[frame["changed"] == base].rename(columns={"changed": "base"})
    pairs = frame[frame["changed"] != base].merge(
        other,
        on=same,
        suffixes=("", "_base"),
    )
    number, _ = baselines.TABLES[name]
    return pairs.assign(
        nll_change=(pairs["nll_dclm"] - pairs["nll_dclm_base"]).round(3),
        avg_change=(pairs["avg"] - pairs["avg_base"]).round(1),
        axis=axis,
        table=number,
    )


def ratio_effects() -> pd.DataFrame:
    """Every ratio against 1:5 of the same family, scale and budget (Tables 9 and 10)."""
    same = ["model", "scale", "budget"]
    parts = []
    for name in ("table09_1b", "table10_350m"):
        parts.append(_against(name, "ratio", "1:5", same, _with_ratio(name)))
    return pd.concat(parts, ignore_index=True)


def _with_ratio(name: str) -> pd.DataFrame:
    frame = baselines.table(name)
    ratios = []
    for printed in frame[baselines.COUNTS].to_numpy():
        attn, swa, ssm, hyb = errata.meant_layers(name, tuple(printed))
        ratios.append(_nearest_ratio((attn + hyb) / (attn + swa + ssm + hyb)))
    return frame.assign(ratio=ratios)


def _nearest_ratio(share: float) -> str:
    """The paper's ratio whose share of expensive layers is nearest in absolute terms."""
    return min(RATIOS, key=lambda ratio: abs(RATIOS[ratio] - share))


def placement_effects() -> pd.DataFrame:
    """Placements against the middle (Tables 11, 17 and 21); at 1:1 against the end, and for a
    single attention layer against the middle one.

    At 350M the row of layer 6 prints the losses of another design (errata), so layer 8 stands for
    the middle."""
    windows, inter = "table11_swa_position", "table17_inter_position"
    halves = {name: baselines.table(name).query("ratio == '1:1'") for name in (windows, inter)}
    by_scale = ["scale", "ratio"]
    parts = [
        _against(windows, "pattern", "middle", ["ratio"]),
        _against(windows, "pattern", "end", ["ratio"], halves[windows]),
        _against(inter, "pattern", "middle", by_scale),
        _against(inter, "pattern", "end", by_scale, halves[inter]),
        _against(inter, "attn_indices", "7", by_scale, _single_layers("1B")),
        _against(inter, "attn_indices", "8", by_scale, _single_layers("350M")),
        _against("table21_intra_position", "pattern", "scatter", by_scale),
    ]
    return pd.concat(parts, ignore_index=True)


def _single_layers(scale: str) -> pd.DataFrame:
    """Table 17's rows with one attention layer that print a loss of their own."""
    name, column = "table17_inter_position", "attn_indices"
    single = baselines.table(name).query("ratio == '1:12' and scale == @scale")
    void = [errata.has_no_loss(name, scale, column, index) for index in single[column]]
    return single[~pd.Series(void, index=single.index)]


def intra_effects() -> pd.DataFrame:
    """Each axis of the intra-hybrid block against the paper's choice, all other axes equal (Tables
    18 and 19)."""
    name = "table18_19_intra_variants"
    blocks = baselines.table(name).query("module == 'T/M'")
    parts = []
    for axis, base in AXES.items():
        others = [other for other in AXES if other != axis]
        parts.append(_against(name, axis, base, ["scale", *others], blocks))
    return pd.concat(parts, ignore_index=True)


def dimension_effects() -> pd.DataFrame:
    """Widths of the two branches against equal ones (Table 20)."""
    name = "table20_dim_ratio"
    rows = baselines.table(name).query("n_hyb > 0")
    attention, mamba = rows["dim_transformer"].astype(str), rows["dim_mamba"].astype(str)
    rows = rows.assign(widths=attention + "/" + mamba)
    parts = [
        _against(name, "widths", "1152/1152", ["scale"], rows.query("scale == '1B'")),
        _against(name, "widths", "896/896", ["scale"], rows.query("scale == '350M'")),
    ]
    return pd.concat(parts, ignore_index=True)


def moe_effects() -> pd.DataFrame:
    """One shared and eight routed experts against the dense model of the same active parameters
    (Table 4)."""
    rows = baselines.table("table04_moe")
    rows = rows.assign(experts=rows["experts"].fillna("dense"))
    return _against("table04_moe", "experts", "dense", ["model", "scale"], rows)


def long_context_effects() -> pd.DataFrame:
    """Each family against Llama, trained at 16K and at 32K (Table 12). Llama's rows cost more than
    the printed budget (errata)."""
    return _against("table12_long_context", "model", "llama", ["scale", "context_len"])


def effects() -> dict[str, pd.DataFrame]:
    """Every effect by what was varied."""
    return {
        "ratio": ratio_effects(),
        "placement": placement_effects(),
        "intra": intra_effects(),
        "dimensions": dimension_effects(),
        "moe": moe_effects(),
        "long_context": long_context_effects(),
    }

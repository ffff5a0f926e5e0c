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
    name: str,
    axis: str,
    base: str,
    same: list[str],
    rows: pd.DataFrame,
) -> pd.DataFrame:
    """Pairs of a table's rows that agree in the columns `same`. In one of them the column `axis`
    has the value `base`, in the other it is `changed`. Returns NLL and accuracy of both, and the
    differences."""
    columns = [*same, axis, "nll_dclm", "avg"]
    frame = rows[columns].rename(columns={axis: "changed"})
    is_base = frame["changed"] == base
    base_rows = frame[is_base].rename(columns={"changed": "base"})
    pairs = frame[~is_base].merge(base_rows, on=same, suffixes=("", "_base"))
    nll_change = pairs["nll_dclm"] - pairs["nll_dclm_base"]
    avg_change = pairs["avg"] - pairs["avg_base"]
    number, _ = baselines.TABLES[name]
    return pairs.assign(
        nll_change=nll_change.round(3),
        avg_change=avg_change.round(1),
        axis=axis,
        table=number,
    )


def ratio_effects() -> pd.DataFrame:
    """Every ratio against 1:5 of the same family, scale and budget (Tables 9 and 10)."""
    same = ["model", "scale", "budget"]
    parts = []
    for name in ("table09_1b", "table10_350m"):
        rows = _with_ratio(name)
        parts.append(_against(name, "ratio", "1:5", same, rows))
    return pd.concat(parts, ignore_index=True)


def _with_ratio(name: str) -> pd.DataFrame:
    frame = baselines.table(name)
    ratios = []
    for printed in frame[baselines.COUNTS].to_numpy():
        layers = errata.meant_layers(name, tuple(printed))
        attn, _, _, hyb = layers
        ratios.append(_nearest_ratio((attn + hyb) / sum(layers)))
    return frame.assign(ratio=ratios)


def _nearest_ratio(share: float) -> str:
    """The paper's ratio whose share of attention layers or intra-hybrid blocks is nearest, by the
    difference."""

    def distance(ratio: str) -> float:
        return abs(RATIOS[ratio] - share)

    return min(RATIOS, key=distance)


def placement_effects() -> pd.DataFrame:
    """Placements against the middle (Tables 11, 17 and 21). At 1:1 they are compared with the end
    instead, and a single attention layer with the middle layer.

    At 350M the row of layer 6 prints the losses of another design (errata), so layer 8 stands for
    the middle."""
    parts = [_window_placements(), _inter_placements(), _intra_placements()]
    return pd.concat(parts, ignore_index=True)


def _window_placements() -> pd.DataFrame:
    name = "table11_swa_position"
    rows = baselines.table(name)
    half = rows.query("ratio == '1:1'")
    parts = [
        _against(name, "pattern", "middle", ["ratio"], rows),
        _against(name, "pattern", "end", ["ratio"], half),
    ]
    return pd.concat(parts, ignore_index=True)


def _inter_placements() -> pd.DataFrame:
    name = "table17_inter_position"
    rows = baselines.table(name)
    half = rows.query("ratio == '1:1'")
    same = ["scale", "ratio"]
    parts = [
        _against(name, "pattern", "middle", same, rows),
        _against(name, "pattern", "end", same, half),
        _against(name, "attn_indices", "7", same, _single_layers("1B")),
        _against(name, "attn_indices", "8", same, _single_layers("350M")),
    ]
    return pd.concat(parts, ignore_index=True)


def _intra_placements() -> pd.DataFrame:
    name = "table21_intra_position"
    rows = baselines.table(name)
    return _against(name, "pattern", "scatter", ["scale", "ratio"], rows)


def _single_layers(scale: str) -> pd.DataFrame:
    """Table 17's rows with one attention layer that print a loss of their own."""
    name = "table17_inter_position"
    column = "attn_indices"
    single = baselines.table(name).query("ratio == '1:12' and scale == @scale")

    def has_loss(index: str) -> bool:
        return not errata.has_no_loss(name, scale, column, index)

    return single[single[column].map(has_loss)]


def intra_effects() -> pd.DataFrame:
    """Each axis of the intra-hybrid block against the paper's choice, all other axes equal (Tables
    18 and 19)."""
    name = "table18_19_intra_variants"
    blocks = baselines.table(name).query("module == 'T/M'")
    parts = []
    for axis, base in AXES.items():
        others = [other for other in AXES if other != axis]
        same = ["scale", *others]
        parts.append(_against(name, axis, base, same, blocks))
    return pd.concat(parts, ignore_index=True)


def dimension_effects() -> pd.DataFrame:
    """Widths of the two branches against equal ones (Table 20)."""
    name = "table20_dim_ratio"
    rows = baselines.table(name).query("n_hyb > 0")
    attention = rows["dim_transformer"].astype(str)
    mamba = rows["dim_mamba"].astype(str)
    rows = rows.assign(widths=attention + "/" + mamba)
    parts = []
    for scale, equal in (("1B", "1152/1152"), ("350M", "896/896")):
        of_scale = rows[rows["scale"] == scale]
        parts.append(_against(name, "widths", equal, ["scale"], of_scale))
    return pd.concat(parts, ignore_index=True)


def moe_effects() -> pd.DataFrame:
    """One shared and eight routed experts against the dense model of the same active parameters
    (Table 4)."""
    name = "table04_moe"
    rows = baselines.table(name)
    experts = rows["experts"].fillna("dense")
    rows = rows.assign(experts=experts)
    return _against(name, "experts", "dense", ["model", "scale"], rows)


def long_context_effects() -> pd.DataFrame:
    """Each family against Llama, trained at 16K and at 32K (Table 12). Llama's rows cost more than
    the printed budget (errata)."""
    name = "table12_long_context"
    rows = baselines.table(name)
    return _against(name, "model", "llama", ["scale", "context_len"], rows)


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

"""Effects of single choices: pairs of printed rows that differ in one of them.

NLL is the DCLM validation loss in nats per token, accuracy (`avg`) the mean of five few-shot tasks
in percent."""

import numpy as np
import pandas as pd

from hybrid_core.evidence import baselines, errata

RATIOS = {"1:0": 1.0, "1:1": 1 / 2, "1:3": 1 / 4, "1:5": 1 / 6, "1:12": 1 / 13, "0:1": 0.0}
AXES = {
    "norm": "group",
    "scalar": "none",
    "fusion": "diff",
    "value": "sep",
    "out": "sep",
}  # the paper's choice


def _against(
    name: str, axis: str, base: str | float, same: list[str], rows: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Rows of a table whose `axis` is `changed` from `base` and which agree in `same`: NLL and
    accuracy of both, and the differences."""
    frame = baselines.table(name) if rows is None else rows
    frame = frame[[*same, axis, "nll_dclm", "avg"]]
    frame = frame.rename(columns={axis: "changed"})
    other = frame[frame["changed"] == base].rename(columns={"changed": "base"})
    pairs = frame[frame["changed"] != base].merge(other, on=same, suffixes=("", "_base"))
    changes = {
        "nll_change": (pairs["nll_dclm"] - pairs["nll_dclm_base"]).round(3),
        "avg_change": (pairs["avg"] - pairs["avg_base"]).round(1),
    }
    return pairs.assign(**changes, axis=axis, table=baselines.TABLES[name][0])


def ratio_effects() -> pd.DataFrame:
    """Every ratio against 1:5 of the same family, scale and budget (Tables 9 and 10)."""
    return pd.concat(
        [
            _against(name, "ratio", "1:5", ["model", "scale", "budget"], _with_ratio(name))
            for name in ("table09_1b", "table10_350m")
        ],
        ignore_index=True,
    )


def _with_ratio(name: str) -> pd.DataFrame:
    frame = baselines.table(name)
    kinds = [errata.meant_layers(name, tuple(key)) for key in frame[baselines.COUNTS].to_numpy()]
    shares = [(attn + hyb) / (attn + swa + ssm + hyb) for attn, swa, ssm, hyb in kinds]
    return frame.assign(
        ratio=[min(RATIOS, key=lambda ratio: abs(RATIOS[ratio] - share)) for share in shares]
    )


def placement_effects() -> pd.DataFrame:
    """Placements against the middle; at 1:1 against the end, for a single attention layer against
    the middle one (Tables 11, 17, 21).

    At 350M the row of layer 6 has no losses of its own (errata), so layer 8 stands in for it.
    """
    swa, inter = (
        baselines.table(name) for name in ("table11_swa_position", "table17_inter_position")
    )
    parts = [_against("table11_swa_position", "pattern", "middle", ["ratio"])]
    parts += [
        _against("table11_swa_position", "pattern", "end", ["ratio"], swa.query("ratio == '1:1'"))
    ]
    parts += [_against("table17_inter_position", "pattern", "middle", ["scale", "ratio"])]
    parts += [
        _against(
            "table17_inter_position",
            "pattern",
            "end",
            ["scale", "ratio"],
            inter.query("ratio == '1:1'"),
        )
    ]
    name = "table17_inter_position"
    for scale, middle in (("1B", "7"), ("350M", "8")):
        single = inter[(inter["ratio"] == "1:12") & (inter["scale"] == scale)]
        void = [
            errata.has_no_loss(name, scale, "attn_indices", index)
            for index in single["attn_indices"]
        ]
        single = single[~np.array(void)]
        parts += [
            _against("table17_inter_position", "attn_indices", middle, ["scale", "ratio"], single)
        ]
    parts += [_against("table21_intra_position", "pattern", "scatter", ["scale", "ratio"])]
    return pd.concat(parts, ignore_index=True)


def intra_effects() -> pd.DataFrame:
    """Each axis of the intra-hybrid block against the paper's choice, all other axes equal (Tables
    18 and 19)."""
    blocks = baselines.table("table18_19_intra_variants").query("module == 'T/M'")
    parts = []
    for axis, base in AXES.items():
        same = ["scale", *(other for other in AXES if other != axis)]
        parts.append(_against("table18_19_intra_variants", axis, base, same, blocks))
    return pd.concat(parts, ignore_index=True)


def dimension_effects() -> pd.DataFrame:
    """Widths of the two branches against equal ones (Table 20)."""
    rows = baselines.table("table20_dim_ratio").query("n_hyb > 0")
    rows = rows.assign(
        widths=rows["dim_transformer"].astype(str) + "/" + rows["dim_mamba"].astype(str)
    )
    equal = {"1B": "1152/1152", "350M": "896/896"}
    parts = [
        _against("table20_dim_ratio", "widths", base, ["scale"], rows.query("scale == @scale"))
        for scale, base in equal.items()
    ]
    return pd.concat(parts, ignore_index=True)


def moe_effects() -> pd.DataFrame:
    """One shared and eight routed experts against the dense model of the same active parameters
    (Table 4)."""
    rows = baselines.table("table04_moe")
    return _against(
        "table04_moe",
        "experts",
        "dense",
        ["model", "scale"],
        rows.assign(experts=rows["experts"].fillna("dense")),
    )


def long_context_effects() -> pd.DataFrame:
    """Each family against Llama, trained at 16K and at 32K (Table 12; Llama's rows cost more than
    the printed budget)."""
    return _against("table12_long_context", "model", "llama", ["scale", "context_len"])


def effects() -> dict[str, pd.DataFrame]:
    """Every effect by what was varied."""
    found = {"ratio": ratio_effects, "placement": placement_effects, "intra": intra_effects}
    found |= {
        "dimensions": dimension_effects,
        "moe": moe_effects,
        "long_context": long_context_effects,
    }
    return {name: function() for name, function in found.items()}

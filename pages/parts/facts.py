"""A table of figures, one column per design. A click on a row's "?" opens where its number comes
from."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hybrid_core.report.sources import origins
from pages.parts import browser, origin

_facts = browser.component("facts")


def draw(key: str, frame: pd.DataFrame, sources: Mapping[str, str]) -> None:
    """One row per figure. `sources`: the entry of profiles/numbers.yaml of each row that has
    one."""
    rows = []
    for name, values in frame.iterrows():
        rows.append(_row(str(name), list(values), sources.get(str(name))))
    result = _facts(
        key=key,
        data={"columns": list(frame.columns), "rows": rows},
        on_asked_change=origin.drawn_anew,
    )
    origin.open_if_asked(result.asked)


def _row(name: str, values: list[str], source: str | None) -> dict[str, Any]:
    counts = ""
    if source:
        counts = "; ".join(origins()[source].counts)
    return {"name": name, "values": values, "source": source, "counts": counts}

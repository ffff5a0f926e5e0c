"""Runs and designs side by side: one table, with the differences first."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from hybrid_core.design.spec import ArchSpec
from hybrid_core.report.figures.style import Named, label
from hybrid_core.report.numbers import WHOLE_STRETCH, Number, numbers, of_design
from hybrid_core.results.environment import Environment
from hybrid_core.results.profile import Decode, Prefill
from hybrid_core.runs.store import Run
from hybrid_core.speed.cost import cost
from hybrid_core.speed.hardware import Hardware
from hybrid_core.workload import Workload


def facts(run: Run) -> dict[str, str]:
    """Every figure of a run that may be compared: how the run was made, then its numbers. Their
    names end in their convention. Raises Unreadable."""
    found = {
        "layers": run.spec.pattern,
        "d_model": str(run.spec.d_model),
        "device": run.device,
        "status": run.status,
    }
    found |= dict(_options(run))
    found |= dict(_made_with(run))
    for number in numbers(run):
        if number.name != WHOLE_STRETCH:
            found[number.compared_as] = number.said
    return found


def sources_of_rows(found: Iterable[Number]) -> dict[str, str]:
    """Name of a row of `facts` -> its entry in profiles/numbers.yaml. Only rows
    with numbers have one."""
    return {number.compared_as: number.source for number in found}


def _options(run: Run) -> Iterator[tuple[str, str]]:
    """The run's options, except lists and the device, which has its own row."""
    for key, value in run.options.items():
        if key == "device" or value is None or isinstance(value, list):
            continue
        name = key
        if key == "d_model":  # a retrieval run's, not the design's
            name = "d_model of the proxy"
        yield name, str(value)


def _made_with(run: Run) -> Iterator[tuple[str, str]]:
    """Hardware, software, and how the work was split."""
    found = run.part(Environment)
    if found:
        yield "hardware", found.name
        yield "torch", found.packages["torch"]
        if found.state_dtype:
            yield "state_dtype", found.state_dtype
        yield "kernels", _paths(found.kernels)
        yield "kernels that ran", _paths(found.kernels_ran)
    prefill = run.part(Prefill)
    if prefill:
        yield "prefill batch x prompt", f"{prefill.batch_size} x {prefill.prompt_len}"
        yield "prefill, tokens at a time", str(prefill.chunk_tokens or "all")
    decode = run.part(Decode)
    if decode and decode.path:
        yield "decode steps", decode.path


def _paths(kernels: dict[str, str]) -> str:
    return "; ".join(f"{name}: {path}" for name, path in kernels.items())


def design_facts(
    spec: ArchSpec,
    workload: Workload,
    hardware: Hardware,
) -> dict[str, str]:
    """Every figure of a design that may be compared: what it costs in a workload, then its
    dimensions. The names of the costs end in their convention."""
    found = {"layers": spec.pattern}
    for number in _costs(spec, workload, hardware):
        found[number.compared_as] = number.said
    return found | dict(_dimensions(spec))


def design_sources(
    spec: ArchSpec,
    workload: Workload,
    hardware: Hardware,
) -> dict[str, str]:
    """The entry in profiles/numbers.yaml of each row of `design_facts` that has one. All designs
    have the same rows."""
    return sources_of_rows(_costs(spec, workload, hardware))


def _costs(
    spec: ArchSpec,
    workload: Workload,
    hardware: Hardware,
) -> Iterable[Number]:
    return of_design(spec, cost(spec, workload, hardware), hardware)


def _dimensions(spec: ArchSpec) -> Iterator[tuple[str, str]]:
    """The fields of a design, as in its YAML."""
    excluded = {"schema_", "name", "layers"}
    fields = spec.model_dump(
        mode="json",
        exclude_none=True,
        exclude=excluded,
    )
    for key, value in fields.items():
        if not isinstance(value, dict):
            yield key, str(value)
            continue
        for name, item in value.items():
            yield f"{key}.{name}", str(item)


def named(specs: Sequence[ArchSpec]) -> list[Named]:
    """The designs with their names. Designs of the same name get a number."""
    seen: Counter[str] = Counter()
    designs = []
    for spec in specs:
        name = spec.name
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} ({seen[name]})"
        designs.append(Named(name, spec))
    return designs


def yaml_diff(first: ArchSpec, second: ArchSpec) -> str:
    """How the second design's YAML differs from the first's, as a unified diff without unchanged
    lines."""
    before = first.to_yaml().splitlines()
    after = second.to_yaml().splitlines()
    lines = difflib.unified_diff(
        before,
        after,
        first.name,
        second.name,
        n=0,
        lineterm="",
    )
    return "\n".join(lines)


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """Figures as rows, runs as columns; rows in which the runs differ come first."""
    names = [label(run) for run in runs]
    return side_by_side(names, [facts(run) for run in runs])


def side_by_side(
    names: Sequence[str],
    columns: Sequence[dict[str, str]],
) -> pd.DataFrame:
    """Figures as rows, one column each; rows in which the columns differ come first."""
    return pd.concat(parted(names, columns))


def parted(
    names: Sequence[str], columns: Sequence[dict[str, str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Figures as rows, one column each: the rows in which the columns differ, and the others."""
    rows: dict[str, None] = {}
    series = {}
    for name, column in zip(names, columns, strict=True):
        rows |= dict.fromkeys(column)
        series[name] = pd.Series(column, dtype=object)
    frame = pd.DataFrame(series).reindex(list(rows)).fillna("")
    differs = frame.nunique(axis=1) > 1
    return frame[differs], frame[~differs]

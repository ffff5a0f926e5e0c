"""Runs as text: the list of all runs, and the results of one."""

from collections.abc import Iterator, Sequence

from hybrid_core.report import units
from hybrid_core.report.numbers import Number, numbers
from hybrid_core.report.retrieval import not_whole, reach, scores_of
from hybrid_core.report.text.tables import table
from hybrid_core.results.checkpoint import Checkpoint
from hybrid_core.results.environment import Environment
from hybrid_core.results.profile import Ceilings
from hybrid_core.results.retrieval import Map, Proxy, Scores, Training, Verdict
from hybrid_core.runs.store import Run

SLOW = 1.5  # times as fast in fp32: the factor from which a warning is due


def runs_table(runs: Sequence[Run]) -> str:
    """One line per run, newest first."""
    if not runs:
        return "no runs yet; `python -m hybrid_core profile SPEC` makes one"
    rows = [("run", "status", "device", "created (UTC)", "design", "")]
    for run in runs:
        row = (
            str(run.id),
            run.status,
            run.device,
            str(run.created_at),
            run.name,
            remark(run),
        )
        rows.append(row)
    return table(rows)


def remark(run: Run) -> str:
    """What the list of runs says about a run, apart from its status."""
    if run.foreign:
        return f"cannot be shown: {run.foreign}"
    if run.error:
        return run.error
    if run.active:
        return run.message
    return ""


def slow_dtype(run: Run) -> str | None:
    """A warning if the device multiplies much faster in fp32 than in the weights' dtype."""
    found = run.part(Ceilings)
    if found is None or found.fp32_times <= SLOW:
        return None
    faster = f"fp32 products are {found.fp32_times:.3g} times as fast as {found.dtype} here"
    return f"{faster}: prefill is quicker with weights in fp32"


def kept_in(run: Run) -> str:
    """The dtypes that a profile used."""
    options = run.options
    found = run.part(Environment)
    state = options.get("state_dtype")  # earlier versions always used the requested one
    if found and found.state_dtype:
        state = found.state_dtype
    if not state or "dtype" not in options:
        return ""
    weights = f"weights {options['dtype']}"
    return f"{weights}, keys and values {options['kv_cache_dtype']}, scan states {state}"


# How a number is labelled below the one that it is compared with.
BESIDE = {
    "predicted": "expected here",
    "quoted, H200": "the paper, one H200",
    "exact": "by the closed form",
}


def _number_rows(found: Sequence[Number]) -> Iterator[tuple[str, str, str]]:
    """Name, value and convention of each. A number with the same name as the one before it is the
    same quantity in another convention."""
    before = ""
    for number in found:
        label = number.label
        if number.name == before:
            label = f"  {BESIDE.get(number.convention, number.convention)}"
        yield label, number.said, number.convention
        before = number.name


def _with_numbers(lines: Sequence[str], found: Sequence[Number]) -> str:
    text = "\n".join(lines)
    if not found:
        return text
    return f"{text}\n\n{table(list(_number_rows(found)))}"


def _profile_table(run: Run) -> str:
    """The parts of a profile that were measured, each number with its convention."""
    lines = [_headline(run)]
    found = run.part(Environment)
    if found:
        software = f"torch {found.packages['torch']}, {found.threads} threads"
        lines.append(f"{found.name}, {found.device}, {software}")
    slow = slow_dtype(run)
    if slow:
        lines.append(slow)
    dtypes = kept_in(run)
    if dtypes:
        lines.append(dtypes)
    return _with_numbers(lines, numbers(run))


def _niah_table(run: Run) -> str:
    """What a retrieval run found: first whether it is a finding at all, then proxy, training and
    map."""
    lines = [_headline(run)]
    verdict = run.part(Verdict)
    proxy = run.part(Proxy)
    training = run.part(Training)
    if verdict:
        lines.append(verdict.text)
    if verdict and proxy:
        lines.append(proxy.note)
    if proxy:
        size = f"{units.count(proxy.params)} parameters"
        lines.append(f"proxy {proxy.pattern}, {size}, trained at {proxy.trained_len} tokens")
    if training:
        lines.append(_training_line(training))
    if run.part(Scores):
        reached = f"effective context, tokens: {reach(scores_of(run))}"
        lines.append(f"{reached} (at least 90 % recalled, 95 % interval)")
    return "\n".join([*lines, *not_whole(run)]) + _map_table(run)


def _headline(run: Run) -> str:
    line = f"run {run.id}: {run.name}, {run.status}"
    if run.error:
        line += f" ({run.error})"
    return line


def _training_line(found: Training) -> str:
    learnt = "not learnt"
    if found.tokens_to_learn:
        learnt = f"90 % recalled after {units.count(found.tokens_to_learn)}"
    ended = "not finished"
    if found.ended:
        ended = f"ended: {found.ended}"
    tokens = units.count(found.tokens)
    return f"{tokens} training tokens in {found.seconds:.0f} s ({ended}), {learnt}"


def _map_table(run: Run) -> str:
    """Recalled needles in percent, a row per length that was tested."""
    found = run.part(Map)
    if not found or not found.cells:
        return ""
    shares = {(cell.context_len, cell.depth): cell.accuracy for cell in found.cells}
    rows = [["recalled, %, by depth", *(f"{depth:.0%}" for depth in found.depths)]]
    for length in found.lengths:
        row = [f"{length:,} tokens"]
        for depth in found.depths:
            share = shares.get((length, depth))
            cell = ""
            if share is not None:
                cell = f"{100 * share:.0f}"
            row.append(cell)
        rows.append(row)
    return f"\n\n{table(rows)}"


def _checkpoint_table(run: Run) -> str:
    """The protocol's map on a checkpoint, and the lengths that were refused."""
    lines = [_headline(run)]
    found = run.part(Checkpoint)
    if found:
        haystack = f"haystack: {found.haystack} (x {found.haystack_repeats})"
        lines.append(f"{found.task} after the paper's Appendix K, {haystack}")
        lines += [f"not run: {row.context_len:,} tokens {row.why}" for row in found.not_run]
        if found.dropped:
            lines.append(found.dropped)
    return "\n".join(lines) + _map_table(run)


def _probes_table(run: Run) -> str:
    """Recall by pairs, copying by length, loss by position."""
    return _with_numbers([_headline(run), *not_whole(run)], numbers(run))


_TABLES_OF_KINDS = {
    "profile": _profile_table,
    "niah": _niah_table,
    "checkpoint": _checkpoint_table,
    "probes": _probes_table,
}


def run_table(run: Run) -> str:
    """What a run found, by its kind."""
    return _TABLES_OF_KINDS[run.kind](run)

"""The store and the jobs: no result is lost, and no dead job is shown as running."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import plotly.graph_objects as go
import psutil
import pytest

from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.report.compare import differences
from hybrid_core.report.figures.measured import generation_chart, live_cache_chart
from hybrid_core.report.figures.paper import paper_cache, paper_throughput
from hybrid_core.report.html import report
from hybrid_core.report.text.runs import run_table, slow_dtype
from hybrid_core.runs.jobs import Dispatcher, cancel, submit
from hybrid_core.runs.lease import CLOCK
from hybrid_core.runs.store import Run, RunStore, UnknownRun, open_store
from hybrid_core.runs.worker import main as work_on
from hybrid_core.validation import SpecError
from tests.designs import design

QUICK = ProfileOptions(
    device="cpu", budget_s=5, dtype="fp32", batch_size=1, prompt_len=8, totals=(64, 128)
)


def until(store: RunStore, run_id: int, reached: Callable[[Run], bool]) -> Run:
    """Wait for a run to get somewhere; one that has ended gets nowhere."""
    dispatcher = Dispatcher(store)
    while True:
        dispatcher.look()
        run = store.get(run_id)
        if reached(run):
            return run
        assert run.active, (
            f"run {run_id} is {run.status}: {run.message} {run.error}\n{run.log_tail()}"
        )
        time.sleep(0.05)


def ended(run: Run) -> bool:
    return not run.active


def profile_run(store: RunStore, letters: str = "A", device: str = "cpu", **changed: Any) -> int:
    """A queued profile with the quick options, of which some are changed."""
    options = QUICK.model_dump(mode="json") | changed
    return store.create("profile", design(letters), options, device)


def test_a_run_is_read_back_as_it_was_written(store: RunStore) -> None:
    spec = design("AMH")
    run_id = store.create("profile", spec, QUICK.model_dump(mode="json"), "cpu")
    store.put_part(run_id, "trace", {"flops": 2**60})
    store.put_part(run_id, "trace", {"flops": 2**61})
    run = RunStore(store.engine.url).get(run_id)
    assert (run.status, run.spec, run.parts) == ("queued", spec, {"trace": {"flops": 2**61}})
    assert ProfileOptions.make(**run.options) == QUICK


def test_runs_are_listed_newest_first_all_or_of_one_kind(store: RunStore) -> None:
    first = store.create("profile", design("A"), {}, "cpu")
    other = store.create("niah", design("A"), {}, "cpu")
    last = store.create("profile", design("A"), {}, "cpu")
    assert [run.id for run in store.list()] == [last, other, first]
    assert [run.id for run in store.list(kind="profile")] == [last, first]


def test_an_ended_run_stays_as_it_ended(store: RunStore) -> None:
    run_id = store.create("profile", design("A"), {}, "cpu")
    assert store.finish(run_id, "cancelled", "by the user")
    assert not store.finish(run_id, "done")
    assert store.claim("word", "boot", 0.0) is None
    assert store.get(run_id).status == "cancelled"


def test_delete_refuses_active_and_unknown_runs(store: RunStore) -> None:
    run_id = store.create("profile", design("A"), {}, "cpu")
    with pytest.raises(ValueError, match="cancel it before"):
        store.delete(run_id)
    store.finish(run_id, "failed")
    store.delete(run_id)
    with pytest.raises(UnknownRun, match=str(run_id)):
        store.get(run_id)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Run]]:
    """Three jobs of one device: the first two are measured, the third is cancelled while it
    waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_DATA_DIR", str(tmp_path_factory.mktemp("measured")))
        patch.delenv("HYBRID_DATABASE_URL", raising=False)
        store = open_store()
        ids = [submit(design(letters), QUICK, store) for letters in ("AMHS", "M", "M")]
        until(store, ids[0], lambda run: run.status == "running")
        cancel(ids[2], store)
        yield [until(store, run_id, ended) for run_id in ids]


def test_a_profile_runs_in_its_own_process_and_stores_every_part(measured: list[Run]) -> None:
    run = measured[0]
    assert run.status == "done", run.error
    assert set(run.parts) == {
        "environment",
        "trace",
        "ceilings",
        "cache",
        "prefill",
        "decode",
        "generation",
        "memory",
        "energy",
    }
    assert run.pid not in (None, os.getpid())
    for counters in (run.parts["trace"]["forward"], run.parts["trace"]["decode"]):
        assert len(set(counters.values())) == 1
    assert all(row["live_bytes"] == row["exact_bytes"] for row in run.parts["cache"]["rows"])
    assert [row["total_len"] for row in run.parts["generation"]["rows"]] == [64, 128]
    assert run.parts["energy"]["note"]
    assert run.parts["ceilings"]["fp32_times"] > 0 and slow_dtype(run) is None  # it ran in fp32
    for chart in (
        generation_chart([run]),
        live_cache_chart([run]),
        paper_throughput([run]),
        paper_cache([run]),
    ):
        go.Figure(chart)  # raises on a word that plotly does not have


def test_jobs_of_one_device_take_turns(measured: list[Run]) -> None:
    first, second, _ = measured
    assert (first.status, second.status) == ("done", "done")
    assert first.ended_at and second.started_at and second.started_at >= first.ended_at


def test_a_waiting_job_can_be_cancelled_without_touching_the_running_one(
    measured: list[Run],
) -> None:
    first, _, third = measured
    assert first.status == "done"
    assert (third.status, third.started_at, third.parts) == ("cancelled", None, {})


def test_a_dtype_that_the_device_multiplies_slowly_is_said(store: RunStore) -> None:
    run_id = store.create("profile", design("A"), {}, "cpu")
    store.put_part(
        run_id,
        "ceilings",
        {
            "dtype": "bf16",
            "fp32_times": 81.2,
            "flops_per_s": 1.2e9,
            "bytes_per_s": 1e10,
            "basis": "b",
        },
    )
    assert (
        "fp32 products are 81.2 times as fast as bf16 here: prefill is quicker with weights in fp32"
        in run_table(store.get(run_id))
    )


@pytest.fixture
def standing_still(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose process has stored a part and then does nothing."""
    monkeypatch.setattr("hybrid_core.runs.jobs.WORKER", "tests.jobs")
    return until(store, submit(design("A"), QUICK, store), lambda run: "trace" in run.parts)


def test_a_killed_process_is_a_failed_run_that_says_so_and_keeps_its_parts(
    store: RunStore, standing_still: Run
) -> None:
    assert standing_still.pid
    os.kill(standing_still.pid, signal.SIGKILL)
    run = until(store, standing_still.id, ended)
    assert run.status == "failed"
    assert "ended without an error message" in str(run.error) and "trace" in run.parts


def test_cancel_ends_the_process_at_once_and_keeps_what_was_measured(
    store: RunStore, standing_still: Run
) -> None:
    pid = standing_still.pid
    assert pid and cancel(standing_still.id, store)
    run = store.get(standing_still.id)
    assert run.status == "cancelled" and "trace" in run.parts
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not cancel(run.id, store)


def worked_here(store: RunStore, spec: ArchSpec, options: ProfileOptions) -> Run:
    """The run of a job that this process did itself."""
    run_id = submit(spec, options, store)
    assert store.claim("a lease", CLOCK.boot, CLOCK.seconds()) == run_id
    work_on(run_id, "a lease")
    return store.get(run_id)


def test_a_design_that_cannot_fit_is_refused_with_what_would(store: RunStore) -> None:
    huge = design(
        "A",
        d_model=32768,
        n_layers=200,
        layers={"strategy": "transformer"},
        ffn={"kind": "swiglu", "d_ff": 131072},
    )
    run = worked_here(store, huge, QUICK)
    assert run.status == "failed"
    assert "GiB are available" in str(run.error) and "a smaller model is needed" in str(run.error)
    assert set(run.parts) == {"environment"}  # nothing was built

    wide = QUICK.model_copy(update={"batch_size": 4096, "totals": (2**22,)})
    run = worked_here(store, design("A"), wide)
    assert "batch" in str(run.error) and "would fit" in str(run.error)


def test_a_device_that_is_not_there_is_refused_in_one_line_before_a_run_is_made(
    store: RunStore,
) -> None:
    elsewhere = QUICK.model_copy(update={"device": "cuda:7"})
    line = r"^device: 'cuda:7' - must be among those that torch finds here: .*cpu$"
    with pytest.raises(SpecError, match=line):
        submit(design("A"), elsewhere, store)
    assert store.list() == []


def energy_of(
    rows: list[dict[str, object]], idle: dict[str, object] | None = None
) -> dict[str, object]:
    return {
        "convention": "measured",
        "meter": "fake",
        "note": "",
        "error": 0.05,
        "idle": idle,
        "rows": rows,
    }


def stretch(
    phase: str, context_len: int, joules: float | None, why: str | None = None
) -> dict[str, object]:
    return {
        "phase": phase,
        "batch_size": 4,
        "context_len": context_len,
        "joules_per_token": joules,
        "why": why,
    }


METERED = energy_of(
    [
        stretch("prefill", 512, 0.0031),
        stretch("decode", 512, 1.25),
        stretch("decode", 2048, None, "too short"),
    ],
    {"watts": 71.4, "seconds": 2.0, "why": None},
)
WHOLE_STRETCH = {
    "convention": "measured",
    "note": "NVML",
    "parts": {"decode": {"joules": 4321.0, "seconds": 9.0}},
}


def test_energy_is_said_a_token_with_phase_context_batch_and_idle_power(store: RunStore) -> None:
    run_id = profile_run(store, device="cuda:0")
    store.put_part(run_id, "energy", METERED)
    run = store.get(run_id)
    lines = [" ".join(line.split()) for line in run_table(run).splitlines()]
    assert "energy, prefill of 512 tokens, batch 4 3.1 mJ per token measured" in lines
    assert "energy, decode at 512 tokens, batch 4 1.25 J per token measured" in lines
    assert "energy, decode at 2,048 tokens, batch 4 too short" in lines
    assert "idle power, included above 71 W measured" in lines
    page = report([run])
    assert "3.1 mJ per token" in page and "71 W" in page
    assert "idle power included, over counted steps alone; within 5%" in page


def test_joules_of_a_whole_stretch_are_shown_as_that_and_compared_with_nothing(
    store: RunStore,
) -> None:
    old = profile_run(store, device="cuda:0")
    new = profile_run(store, device="cuda:0")
    store.put_part(old, "energy", WHOLE_STRETCH)
    store.put_part(new, "energy", METERED)
    runs = [store.get(old), store.get(new)]
    text = run_table(runs[0])
    assert "whole decode stretch, cache filling included: not comparable" in text
    assert "4,321 J" in text
    rows = differences(runs)
    named = [name for name in rows.index if "energy" in name or "idle" in name]
    assert named == [
        "energy, prefill of 512 tokens, batch 4 (measured)",
        "energy, decode at 512 tokens, batch 4 (measured)",
        "energy, decode at 2,048 tokens, batch 4",
        "idle power, included above (measured)",
    ]
    assert set(rows.loc[named].iloc[:, 0]) == {""}
    assert "4,321 J" in report([runs[0]])


def test_a_prefill_in_chunks_is_said_wherever_it_is_shown(store: RunStore) -> None:
    run_id = profile_run(store)
    speed = {
        "median_s": 1.0,
        "min_s": 1.0,
        "max_s": 1.0,
        "repeats": 3,
        "tokens_per_s": 8.0,
        "predicted_tokens_per_s": 9.0,
    }
    store.put_part(
        run_id,
        "prefill",
        speed | {"batch_size": 4, "prompt_len": 32768, "chunk_tokens": 2048, "shortened": False},
    )
    needs = {"weights": 2**20, "cache": 2**20, "activations": 2**21, "total": 2**22}
    found = {
        "peak_bytes": 2**23,
        "what": "allocated",
        "context_len": 64,
        "build_s": 0.1,
        "predicted_bytes": needs,
    }
    store.put_part(run_id, "memory", found | {"one_shot_activations": 2**30})
    run = store.get(run_id)
    text = run_table(run)
    page = report([run])
    assert "prompt 32768, 2,048 tokens at a time" in text
    assert "x 32768, 2,048 tokens at a time" in page
    assert "activations of the prefill at once" in text and "1 GiB" in text
    assert "(1 GiB if done at once)" in page
    rows = differences([run])
    assert rows.loc["prefill, tokens at a time"].item() == "2048"
    assert rows.loc["activations of the prefill at once (exact)"].item() == "1 GiB"


def test_a_run_says_the_dtype_of_its_states_whichever_version_stored_it(store: RunStore) -> None:
    old = profile_run(store, "M", state_dtype="fp32")
    new = profile_run(store, "M")
    found = {
        "name": "cpu",
        "device": "cpu",
        "threads": 1,
        "packages": {"torch": "2"},
        "kernels": {},
    }
    store.put_part(old, "environment", found)
    store.put_part(new, "environment", found | {"state_dtype": "bf16"})
    assert "weights fp32, keys and values bf16, scan states fp32" in run_table(store.get(old))
    assert "weights fp32, keys and values bf16, scan states bf16" in run_table(store.get(new))
    table = differences([store.get(old), store.get(new)])
    assert table.loc["state_dtype"].tolist() == ["fp32", "bf16"]


def test_a_run_that_an_earlier_version_stored_is_still_shown(store: RunStore) -> None:
    run_id = profile_run(store)
    total = {"weights": 1, "cache": 2, "activations": 3, "total": 6}
    store.put_part(
        run_id,
        "memory",
        {
            "peak_bytes": 2**20,
            "what": "resident",
            "context_len": 64,
            "build_s": 0.1,
            "predicted_bytes": total,
        },
    )
    assert "peak memory, resident" in run_table(store.get(run_id))

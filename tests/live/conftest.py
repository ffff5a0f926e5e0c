"""What the tests of live measurements share."""

from functools import partial

import pytest

from hybrid_core.cli import measurements
from hybrid_core.runs.kinds import KINDS
from hybrid_core.runs.store import RunStore


@pytest.fixture
def jobs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command does its job itself instead of starting a process that imports torch again."""

    def work(store: RunStore, run_id: int) -> None:
        run = store.get(run_id)
        kind = KINDS[run.kind]
        do = kind.load()
        do(
            run.spec,
            kind.options.make(**run.options),
            partial(store.put_part, run_id),
            lambda fraction, message: None,
        )
        store.finish(run_id, "done")

    monkeypatch.setattr(measurements, "_follow", work)

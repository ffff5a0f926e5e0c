"""The kinds of job: the options of each, and the function that does the work. The function is given
as a string, so that torch is not imported until a job runs."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from hybrid_core.design.spec import ArchSpec
from hybrid_core.live.profiling.job import Report, Store
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions, ProbeOptions

Options = ProfileOptions | NiahOptions | ProbeOptions | CheckpointOptions
Work = Callable[[ArchSpec, Any, Store, Report], None]


class Kind(NamedTuple):
    """A kind of job. `work` names a function of type `Work` as "module:function"."""

    options: type[Options]
    work: str

    def load(self) -> Work:
        """Import the function. The first call is slow, because it imports torch."""
        module, _, name = self.work.partition(":")
        work: Work = getattr(import_module(module), name)
        return work


KINDS = {
    "profile": Kind(ProfileOptions, "hybrid_core.live.profiling.profile:profile"),
    "niah": Kind(NiahOptions, "hybrid_core.live.retrieval.niah:niah"),
    "probes": Kind(ProbeOptions, "hybrid_core.live.retrieval.probes:probes"),
    "checkpoint": Kind(CheckpointOptions, "hybrid_core.live.retrieval.checkpoint:checkpoint"),
}


def kind_of(options: Options) -> str:
    """The name of the kind with options of this type."""
    return next(name for name, kind in KINDS.items() if kind.options is type(options))

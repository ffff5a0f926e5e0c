"""Commands that build and measure models: profile, niah, probes, calibrate."""

import argparse
import sys
import time

from hybrid_core import extras
from hybrid_core.cli.flags import add_flags, options
from hybrid_core.cli.runs import record
from hybrid_core.cli.shared import SPEC_HELP, Command, add_spec, print_json
from hybrid_core.data import data_dir
from hybrid_core.design.built import require_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions, ProbeOptions
from hybrid_core.options import flagged
from hybrid_core.report.text.design import calibration_table
from hybrid_core.report.text.runs import run_table
from hybrid_core.runs.devices import concrete, why_no_gpu
from hybrid_core.runs.jobs import Dispatcher, cancel, require_tools, submit
from hybrid_core.runs.kinds import Options
from hybrid_core.runs.store import RunStore, open_store
from hybrid_core.speed import hardware
from hybrid_core.validation import SpecError

PAUSE_S = 0.2  # seconds between checks of a job's progress


def add(command: Command) -> None:
    """Declare the commands."""
    text = "Build a design and measure it in a separate process; the result is kept as a run"
    parser = command("profile", _profile, text, as_json=True)
    add_spec(parser)
    add_flags(parser, ProfileOptions)

    text = (
        "The needle test at every depth and length. It trains a small proxy of the design, or "
        "runs the paper's protocol on a trained checkpoint. The result is kept as a run"
    )
    parser = command("niah", _niah, text, as_json=True)
    parser.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?",
        help=f"{SPEC_HELP}; not with --checkpoint",
    )
    add_flags(parser, NiahOptions)
    add_flags(parser, CheckpointOptions, only=("path",))
    of_checkpoints = set(flagged(CheckpointOptions)) - set(flagged(NiahOptions)) - {"path"}
    add_flags(parser, CheckpointOptions, of_checkpoints, before="with --checkpoint: ")

    text = (
        "Test small proxies of a design for associative recall, selective copying and loss by "
        "position; the result is kept as a run"
    )
    parser = command("probes", _probes, text, as_json=True)
    add_spec(parser)
    add_flags(parser, ProbeOptions)

    text = "Measure how fast this device is at each kind of work; predictions for it use the result"
    parser = command("calibrate", _calibrate, text, as_json=True)
    add_flags(parser, ProfileOptions, only=("device", "dtype"))


def _profile(arguments: argparse.Namespace) -> int:
    spec = published.resolve(arguments.spec)
    return _job(spec, options(ProfileOptions, arguments), arguments.json)


def _niah(arguments: argparse.Namespace) -> int:
    if (arguments.spec is None) == (arguments.checkpoint is None):
        raise SpecError("SPEC: give either a design or --checkpoint DIR")
    if arguments.checkpoint is None:
        spec = published.resolve(arguments.spec)
        return _job(spec, options(NiahOptions, arguments), arguments.json)
    asked = options(CheckpointOptions, arguments)
    return _job(asked.design(), asked, arguments.json)


def _probes(arguments: argparse.Namespace) -> int:
    asked = options(ProbeOptions, arguments)
    spec = published.resolve(arguments.spec)
    return _job(spec, asked, arguments.json)


def _calibrate(arguments: argparse.Namespace) -> None:
    """Measure this device's rates, and keep them for `cost --hardware` and the pages."""
    extras.require("live", "calibrate")
    asked = options(ProfileOptions, arguments)
    require_tools(asked)
    device = _device(asked.device)
    from hybrid_core.live.profiling.calibrate import Calibration
    from hybrid_core.live.profiling.device import resolve

    data_dir()  # if it cannot be created, fail before half a minute of measuring
    calibration = Calibration(resolve(device), asked.dtype)
    measured = calibration.run(lambda what: print(f"measuring {what}", file=sys.stderr))
    hardware.keep_calibration(measured)
    if arguments.json:
        print_json(measured.model_dump())
    else:
        print(calibration_table(measured))


def _job(spec: ArchSpec, asked: Options, as_json: bool) -> int:
    """Run a job, follow its progress and print its result. Returns the exit code."""
    require_built(spec)
    require_tools(asked)
    asked = asked.model_copy(update={"device": _device(asked.device)})
    store = open_store()
    run_id = submit(spec, asked, store)
    try:
        _follow(store, run_id)
    except KeyboardInterrupt:
        cancel(run_id, store)
        print("cancelled; what was measured so far is kept", file=sys.stderr)
    run = store.get(run_id)
    if as_json:
        print_json(record(run))
    elif run.parts:
        print(run_table(run))
    if run.status == "failed":
        print(f"run {run_id} failed: {run.error}", file=sys.stderr)
    if run.status == "done":
        return 0
    return 1


def _device(name: str) -> str:
    """The device that a name refers to here. If "auto" means the CPU although torch was built for
    GPUs, print the reason to stderr. Raises SpecError."""
    if name == "auto":
        reason = why_no_gpu()
        if reason:
            print(f"device: auto means the CPU, because there is no GPU: {reason}", file=sys.stderr)
    return concrete(name)


def _follow(store: RunStore, run_id: int) -> None:
    """Print progress on stderr until the run has ended."""
    dispatcher = Dispatcher(store)
    printed = ""
    run = store.get(run_id)
    while run.active:
        dispatcher.look()
        if run.message != printed:
            printed = run.message
            print(f"run {run_id}: {run.fraction:4.0%}  {printed}", file=sys.stderr)
        time.sleep(PAUSE_S)
        run = store.get(run_id)

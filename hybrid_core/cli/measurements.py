"""Commands that build and measure models: profile, niah, probes, calibrate."""

import argparse
import sys
import time

from hybrid_core.cli.flags import add_flags, options
from hybrid_core.cli.runs import record
from hybrid_core.cli.shared import Command, add_spec, print_json
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

PAUSE_S = 0.2  # between two looks at a job


def add(command: Command) -> None:
    """Declare the commands."""
    text = "Build a design and measure it in a process of its own; the result is kept as a run"
    parser = command("profile", profile, text, as_json=True)
    add_spec(parser)
    add_flags(parser, ProfileOptions)

    text = (
        "The needle test at every depth and length: on a small proxy that is trained for it, "
        "or on a checkpoint (the paper's protocol)"
    )
    parser = command("niah", niah, text, as_json=True)
    parser.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?",
        help="a YAML file or a preset's name; not with --checkpoint",
    )
    add_flags(parser, NiahOptions)
    add_flags(parser, CheckpointOptions, only=("path",))
    of_checkpoints = set(flagged(CheckpointOptions)) - set(flagged(NiahOptions)) - {"path"}
    add_flags(parser, CheckpointOptions, of_checkpoints, before="with --checkpoint: ")

    text = (
        "Associative recall, selective copying and loss by position, on small proxies of a "
        "design; the result is kept as a run"
    )
    parser = command("probes", probes, text, as_json=True)
    add_spec(parser)
    add_flags(parser, ProbeOptions)

    text = "Measure how fast this device is at each kind of work, for predictions that rest on it"
    parser = command("calibrate", calibrate, text, as_json=True)
    add_flags(parser, ProfileOptions, only=("device", "dtype"))


def profile(arguments: argparse.Namespace) -> int:
    """`profile`: FLOPs, cache, speed, memory and energy of a design, measured."""
    spec = published.resolve(arguments.spec)
    return _job(spec, options(ProfileOptions, arguments), arguments.json)


def niah(arguments: argparse.Namespace) -> int:
    """`niah`: the needle test, of a design's proxy or of a checkpoint."""
    if (arguments.spec is None) == (arguments.checkpoint is None):
        raise SpecError("SPEC: give either a design or --checkpoint DIR")
    if arguments.checkpoint is None:
        spec = published.resolve(arguments.spec)
        return _job(spec, options(NiahOptions, arguments), arguments.json)
    asked = options(CheckpointOptions, arguments)
    return _job(asked.design(), asked, arguments.json)


def probes(arguments: argparse.Namespace) -> int:
    """`probes`: recall, copying and loss by position of a design's proxies."""
    asked = options(ProbeOptions, arguments)
    return _job(published.resolve(arguments.spec), asked, arguments.json)


def calibrate(arguments: argparse.Namespace) -> None:
    """`calibrate`: this device's rates, kept for `cost --hardware` and the pages."""
    asked = options(ProfileOptions, arguments)
    require_tools(asked)
    device = _device(asked.device)
    from hybrid_core.live.profiling.calibrate import Calibration
    from hybrid_core.live.profiling.device import resolve

    data_dir()  # where it cannot be made, say so before half a minute of measuring
    calibration = Calibration(resolve(device), asked.dtype)
    measured = calibration.run(lambda what: print(f"measuring {what}", file=sys.stderr))
    hardware.keep_calibration(measured)
    if arguments.json:
        print_json(measured.model_dump())
    else:
        print(calibration_table(measured))


def _job(spec: ArchSpec, asked: Options, as_json: bool) -> int:
    """Run a job, following its progress, and print what it found; 0 when it is done."""
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
    return 0 if run.status == "done" else 1


def _device(name: str) -> str:
    """The device that a name means here. Says on stderr why "auto" is the CPU where torch's build
    knows GPUs. Raises SpecError."""
    if name == "auto":
        reason = why_no_gpu()
        if reason:
            print(f"device: auto is the CPU here, as there is no GPU: {reason}", file=sys.stderr)
    return concrete(name)


def _follow(store: RunStore, run_id: int) -> None:
    """Print progress on stderr until the run has ended."""
    dispatcher = Dispatcher(store)
    said = ""
    run = store.get(run_id)
    while run.active:
        dispatcher.look()
        if run.message != said:
            said = run.message
            print(f"run {run_id}: {run.fraction:4.0%}  {said}", file=sys.stderr)
        time.sleep(PAUSE_S)
        run = store.get(run_id)

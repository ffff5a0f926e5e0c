"""The command line: `python -m hybrid_core COMMAND`. Exit code 0 done, 1 failed, 2 bad input (one
line on stderr)."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from hybrid_core import __version__
from hybrid_core.costs.model import model_costs
from hybrid_core.data import NotWritten, data_dir, folder, write_whole
from hybrid_core.design import presets
from hybrid_core.design.built import not_built, require_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence import quality
from hybrid_core.evidence.advice import SCENARIOS, advise
from hybrid_core.evidence.paper_check import check_all, throughput_ratios
from hybrid_core.interop import kernel_shapes, published
from hybrid_core.interop.export import FORMATS, export
from hybrid_core.interop.export import notes as export_notes
from hybrid_core.interop.huggingface import read_config, spec_from_config
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, NiahOptions, ProbeOptions
from hybrid_core.report.text import (
    advice_lines,
    calibration_table,
    cost_table,
    imported_line,
    models_table,
    paper_check_table,
    quality_lines,
    quality_table,
    run_table,
    runs_table,
    throughput_ratio_table,
)
from hybrid_core.runs.jobs import require_tools
from hybrid_core.runs.kinds import Options
from hybrid_core.runs.schema import StoreError
from hybrid_core.runs.store import UnknownRun
from hybrid_core.speed import hardware
from hybrid_core.speed.cost import cost
from hybrid_core.stored import ComputeDtype, WeightFormat
from hybrid_core.validation import SpecError, one_line, short
from hybrid_core.workload import CacheDtype, Workload
from kernels.implementations import CannotRun

MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except (SpecError, UnknownRun, CannotRun) as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except StoreError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except NotWritten as error:
        print(error, file=sys.stderr)
        return 1


# (name, what it runs, one line of help, whether it can print JSON) -> its parser
Command = Callable[..., argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    """argparse with one line on stderr for bad input."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{one_line(message)}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m hybrid_core", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any, text: str, as_json: bool = False) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if as_json:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    _add_costs(command)
    _add_paper(command)
    _add_measurements(command)
    return parser


def _add_costs(command: Command) -> None:
    """What needs nothing but the design."""
    sub = command("presets", _presets, "List the named designs, or print one as YAML", as_json=True)
    sub.add_argument("--show", metavar="NAME", help="print this design's YAML")

    sub = command("import", _import, "A published config.json as a design", as_json=True)
    sub.add_argument(
        "config",
        metavar="CONFIG.json",
        type=Path,
        help="as Hugging Face, mamba_ssm or Samba publish it",
    )
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write the YAML (default: standard output)",
    )
    sub.add_argument("--name", help="what to call the design (default: the file's name)")

    sub = command(
        "export",
        _export,
        "A design for another framework; what the format cannot say is an error that names it",
    )
    _spec(sub)
    sub.add_argument("--to", required=True, choices=list(FORMATS), help="the format")
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder to write into; made where there is none",
    )

    sub = command("cost", _cost, "Every cost of a design, from closed forms, at once", as_json=True)
    _spec(sub)
    sub.add_argument(
        "--context-len", type=int, default=8192, help="tokens per sequence (default: %(default)s)"
    )
    sub.add_argument("--prompt-len", type=int, help="tokens prefilled (default: the whole context)")
    sub.add_argument("--batch-size", type=int, default=1, help="sequences (default: %(default)s)")
    sub.add_argument(
        "--weight-dtype",
        help=f"{_one_of(WeightFormat)} (default: as the design's are stored, else bf16)",
    )
    sub.add_argument(
        "--kv-cache-dtype", default="bf16", help=f"{_one_of(CacheDtype)} (default: %(default)s)"
    )
    sub.add_argument(
        "--state-dtype", help=f"{_one_of(ComputeDtype)} (default: the config's, else the products')"
    )
    sub.add_argument(
        "--max-batched-tokens",
        type=int,
        default=8192,
        help="tokens prefilled at a time (default: %(default)s)",
    )
    sub.add_argument(
        "--tokens",
        type=float,
        help="training tokens, for the total training FLOPs and the quality, e.g. 60e9",
    )
    sub.add_argument(
        "--quality",
        action="store_true",
        help="also the loss that the paper's rows suggest, and the nearest of them",
    )
    sub.add_argument(
        "--hardware",
        default="h100_sxm",
        help=f"one of {', '.join(hardware.devices())} (default: %(default)s)",
    )


def _add_paper(command: Command) -> None:
    """What the paper's tables say, and whether the formulas agree with them."""
    sub = command(
        "advice",
        _advice,
        "What the paper's tables say about a design, each piece with its source",
        as_json=True,
    )
    _spec(sub)
    sub.add_argument(
        "--context-len",
        type=int,
        default=8192,
        help="tokens of context in use (default: %(default)s)",
    )
    sub.add_argument(
        "--scenario",
        choices=list(SCENARIOS),
        help="what the order of the advice is for, unless it follows from the context",
    )
    sub.add_argument(
        "--needle-distance", type=int, help="tokens between what has to be recalled and the end"
    )

    text = "Scaling laws and effects from the paper's tables, and how far estimates of loss can be trusted"
    command("quality", _quality, text, as_json=True)
    command(
        "paper-check",
        _paper_check,
        "Recompute every parameter, FLOPs and cache figure that the paper prints",
        as_json=True,
    )


def _add_measurements(command: Command) -> None:
    """What builds models, and what was measured."""
    sub = command(
        "profile",
        _profile,
        "Build a design and measure it, in a process of its own; the result is kept as a run",
        as_json=True,
    )
    _spec(sub)
    sub.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    sub.add_argument(
        "--budget", type=float, default=60.0, help="seconds to spend (default: %(default)s)"
    )
    sub.add_argument(
        "--dtype", default="bf16", help="weights: fp32, bf16 or fp16 (default: %(default)s)"
    )
    sub.add_argument(
        "--kv-cache-dtype", default="bf16", help="fp32, bf16, fp16 or fp8 (default: %(default)s)"
    )
    sub.add_argument(
        "--state-dtype", help=f"{_one_of(ComputeDtype)} (default: the config's, else the weights')"
    )
    sub.add_argument(
        "--batch-size", type=int, default=4, help="sequences (default: %(default)s, the paper's)"
    )
    sub.add_argument(
        "--prompt-len",
        type=int,
        default=512,
        help="tokens of the prompt (default: %(default)s, the paper's)",
    )
    sub.add_argument(
        "--decode",
        default="auto",
        help="auto, eager, graph (CUDA) or compiled (C++ compiler) (default: %(default)s)",
    )

    text = "Ask for needles at every depth and length: of a small proxy of a design, trained for it, or of a checkpoint (the paper's protocol)"
    sub = command("niah", _niah, text, as_json=True)
    sub.add_argument(
        "spec",
        metavar="SPEC",
        nargs="?",
        help="a YAML file or a preset's name; not with --checkpoint",
    )
    _small_training(sub)
    sub.add_argument(
        "--checkpoint", metavar="DIR", help="a folder in Hugging Face format, tokenizer included"
    )
    sub.add_argument(
        "--task",
        default="niah_single",
        help="with --checkpoint: niah_single or niah_multikey (default: %(default)s)",
    )
    sub.add_argument(
        "--haystack",
        metavar="FILE",
        help="with --checkpoint: a text to hide needles in (default: built-in noise)",
    )
    sub.add_argument(
        "--lengths",
        metavar="N,N",
        help="with --checkpoint: haystack tokens (default: 960,1984,...,16320, the paper's)",
    )
    sub.add_argument(
        "--batch-size",
        type=int,
        default=8,
        help="with --checkpoint: prompts at a time (default: %(default)s)",
    )
    sub.add_argument(
        "--dtype",
        default="bf16",
        help="with --checkpoint: fp32, bf16 or fp16 (default: %(default)s)",
    )

    text = "Associative recall, selective copying and loss by position, of small proxies of a design; the result is kept as a run"
    sub = command("probes", _probes, text, as_json=True)
    _spec(sub)
    _small_training(sub)
    sub.add_argument(
        "--text",
        metavar="FILE",
        help="a text for the loss by position; without one that probe is left out",
    )

    sub = command(
        "calibrate",
        _calibrate,
        "Measure what this device does per kind of work; predictions for it then rest on that",
        as_json=True,
    )
    sub.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    sub.add_argument("--dtype", default="bf16", help="fp32, bf16 or fp16 (default: %(default)s)")

    sub = command("runs", _runs, "The runs kept so far", as_json=True)
    sub.add_argument(
        "action",
        nargs="?",
        choices=["list", "show", "delete", "cancel"],
        default="list",
        help="default: list",
    )
    sub.add_argument(
        "id", nargs="?", type=_run_number, help="the run's number, for show, delete and cancel"
    )

    sub = command("report", _report, "One HTML file, readable offline, of one or more runs")
    sub.add_argument("ids", nargs="+", type=_run_number, metavar="ID", help="run numbers")
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to write, e.g. report.html",
    )


def _run_number(text: str) -> int:
    """A number that a store may give to a run."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number < 2**63:
        raise argparse.ArgumentTypeError(
            f"{short(text)} - must be a run's number, as `runs` lists them"
        )
    return number


def _small_training(sub: argparse.ArgumentParser) -> None:
    """What trains proxies."""
    sub.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    sub.add_argument(
        "--budget",
        type=float,
        default=300.0,
        help="seconds for training and evaluation (default: %(default)s)",
    )
    sub.add_argument(
        "--seed", type=int, default=0, help="of weights and data (default: %(default)s)"
    )
    sub.add_argument(
        "--d-model", type=int, help="width of the proxy (default: 64 on a CPU, 256 on a GPU)"
    )
    sub.add_argument(
        "--trained-len", type=int, help="tokens of context to train at (default: by device)"
    )
    sub.add_argument(
        "--trials",
        type=int,
        help="trials per cell (default: 50 on a CPU, 100 on a GPU or a checkpoint)",
    )


def _one_of(words: Any) -> str:
    """`fp32, bf16 or fp16` of a type that allows these."""
    *most, last = get_args(words)
    return f"{', '.join(most)} or {last}"


def _spec(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("spec", metavar="SPEC", help="a YAML file or a preset's name")


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))


def _presets(arguments: argparse.Namespace) -> None:
    if arguments.show:
        print(published.resolve(arguments.show).to_yaml(), end="")
        return
    found, models = [presets.get(name) for name in presets.names()], published.models()
    if arguments.json:
        records = [
            {"name": p.spec.name, "pattern": p.spec.pattern, "source": p.source} for p in found
        ]
        _print_json(records + [_model_record(name, model) for name, model in models.items()])
        return
    for preset in found:
        print(f"{preset.spec.name:20} {preset.spec.pattern:30} {preset.source}")
    print("\n" + models_table(models))


def _model_record(name: str, model: published.Model) -> dict[str, Any]:
    spec, rest = model.spec, model._asdict()
    return {"name": name, "pattern": spec.pattern} | {
        key: value for key, value in rest.items() if key != "spec"
    }


def _import(arguments: argparse.Namespace) -> None:
    spec = spec_from_config(
        read_config(arguments.config), arguments.name or published.config_name(arguments.config)
    )
    costs, reason = model_costs(spec), not_built(spec)
    if arguments.output:
        _write(arguments.output, spec.to_yaml())
    if arguments.json:
        record = {
            "name": spec.name,
            "pattern": spec.pattern,
            "params": costs.params()._asdict(),
            "not_built": reason,
        }
        record["cache_bytes_8k"] = {
            key: int(costs.cache_bytes(8192, key)) for key in ("paper", "exact")
        }
        _print_json(record | {"level": "costed" if reason else "built", "yaml": spec.to_yaml()})
        return
    if not arguments.output:
        print(spec.to_yaml(), end="")
    print(
        imported_line(spec.name, costs.params(), int(costs.cache_bytes(8192, "paper")), reason),
        file=sys.stderr,
    )


def _export(arguments: argparse.Namespace) -> None:
    spec = published.resolve(arguments.spec)
    files = export(spec, arguments.to)
    with _naming_the_output():
        folder(arguments.output)
    for name, text in files.items():
        _write(arguments.output / name, text)
        print(arguments.output / name)
    for line in export_notes(spec, arguments.to):
        print(line, file=sys.stderr)


def _write(path: Path, text: str) -> None:
    with _naming_the_output():
        write_whole(path, text)


@contextmanager
def _naming_the_output() -> Iterator[None]:
    try:
        yield
    except NotWritten as error:
        raise SpecError(f"output: {error}") from None


def _cost(arguments: argparse.Namespace) -> None:
    spec, device = published.resolve(arguments.spec), hardware.get(arguments.hardware)
    for line in hardware.unreadable().values():
        print(f"a calibration is left out: {line}", file=sys.stderr)
    names = (
        "batch_size",
        "context_len",
        "prompt_len",
        "weight_dtype",
        "kv_cache_dtype",
        "state_dtype",
        "max_batched_tokens",
    )
    workload = Workload.make(**{name: getattr(arguments, name) for name in names})
    record = cost(spec, workload, device).model_dump(mode="json")
    record["kernel_shapes"] = kernel_shapes.kernel_refusals(spec)
    if arguments.tokens is not None:
        if not 0 < arguments.tokens < 1e18:
            raise SpecError(f"tokens: {arguments.tokens} - must be positive and below 1e18")
        for value in record["train_flops"].values():
            value["total"] = value["per_token"] * arguments.tokens
    if arguments.quality:
        record["quality"] = quality.record(spec, arguments.tokens or quality.PAPER_TOKENS)
    if arguments.json:
        _print_json(record)
    else:
        print(
            cost_table(record)
            + ("\n\n" + quality_lines(record["quality"]) if arguments.quality else "")
        )


def _advice(arguments: argparse.Namespace) -> None:
    spec, used = published.resolve(arguments.spec), Workload.make(context_len=arguments.context_len)
    if (
        arguments.needle_distance is not None
        and not 0 < arguments.needle_distance <= used.context_len
    ):
        raise SpecError(
            f"needle_distance: {arguments.needle_distance} - must be from 1 to context_len ({used.context_len})"
        )
    given = advise(spec, used.context_len, arguments.needle_distance, arguments.scenario)
    _print_json([advice.record() for advice in given]) if arguments.json else print(
        advice_lines(spec.name, given)
    )


def _quality(arguments: argparse.Namespace) -> None:
    found = quality.report()
    _print_json(found) if arguments.json else print(quality_table(found))


def _calibrate(arguments: argparse.Namespace) -> None:
    options = ProfileOptions.make(device=arguments.device, dtype=arguments.dtype)
    require_tools(options)
    options = options.model_copy(update={"device": _device(options.device)})
    from hybrid_core.live.profiling.calibrate import Calibration
    from hybrid_core.live.profiling.device import resolve

    data_dir()  # where it cannot be made, say so before half a minute of measuring
    measured = Calibration(resolve(options.device), options.dtype).run(
        lambda what: print(f"measuring {what}", file=sys.stderr)
    )
    hardware.keep_calibration(measured)
    _print_json(measured.model_dump()) if arguments.json else print(calibration_table(measured))


def _paper_check(arguments: argparse.Namespace) -> int:
    tables = check_all()
    if arguments.json:
        cells = [
            cell._asdict() | {"reason": cell.reason} for found in tables.values() for cell in found
        ]
        _print_json(cells)
    else:
        print(paper_check_table(tables) + "\n\n" + throughput_ratio_table(throughput_ratios()))
    return int(
        any(not cell.agrees and not cell.reason for found in tables.values() for cell in found)
    )


def _profile(arguments: argparse.Namespace) -> int:
    spec = published.resolve(arguments.spec)
    names = (
        "device",
        "dtype",
        "kv_cache_dtype",
        "state_dtype",
        "batch_size",
        "prompt_len",
        "decode",
    )
    options = ProfileOptions.make(
        budget_s=arguments.budget, **{name: getattr(arguments, name) for name in names}
    )
    return _job(spec, options, arguments.json)


def _proxy_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"budget_s": arguments.budget} | {
        name: getattr(arguments, name)
        for name in ("device", "seed", "d_model", "trained_len", "trials")
    }


def _niah(arguments: argparse.Namespace) -> int:
    if (arguments.spec is None) == (arguments.checkpoint is None):
        raise SpecError("SPEC: give either a design or --checkpoint DIR")
    if arguments.checkpoint is None:
        return _job(
            published.resolve(arguments.spec),
            NiahOptions.make(**_proxy_options(arguments)),
            arguments.json,
        )
    fields = {
        name: getattr(arguments, name)
        for name in ("task", "device", "batch_size", "dtype", "seed", "trials")
    }
    fields |= {
        "path": arguments.checkpoint,
        "haystack_path": arguments.haystack,
        "lengths": _lengths(arguments.lengths),
    }
    options = CheckpointOptions.make(
        **{name: value for name, value in fields.items() if value is not None}
    )
    return _job(options.design(), options, arguments.json)


def _lengths(text: str | None) -> list[int] | None:
    """Numbers between commas."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(
            f"lengths: {short(text)} - must be whole numbers with commas between"
        ) from None


def _probes(arguments: argparse.Namespace) -> int:
    options = ProbeOptions.make(text_path=arguments.text, **_proxy_options(arguments))
    return _job(published.resolve(arguments.spec), options, arguments.json)


def _job(spec: ArchSpec, options: Options, as_json: bool) -> int:
    """Run a job, following its progress, and print what it found; 0 when it is done."""
    from hybrid_core.runs import cancel, open_store, submit

    require_built(spec)
    options = options.model_copy(update={"device": _device(options.device)})
    store = open_store()
    run_id = submit(spec, options, store)
    try:
        _follow(store, run_id)
    except KeyboardInterrupt:
        cancel(run_id, store)
        print("cancelled; what was measured so far is kept", file=sys.stderr)
    run = store.get(run_id)
    if as_json:
        _print_json(_record(run))
    elif run.parts:
        print(run_table(run))
    if run.status == "failed":
        print(f"run {run_id} failed: {run.error}", file=sys.stderr)
    return 0 if run.status == "done" else 1


def _device(name: str) -> str:
    """The device that a name means here; on stderr why "auto" is no GPU, where torch's build knows
    GPUs. Raises SpecError."""
    from hybrid_core.runs.devices import concrete, why_no_gpu

    if name == "auto" and (why := why_no_gpu()):
        print(f"device: auto is the CPU here, as there is no GPU: {why}", file=sys.stderr)
    return concrete(name)


def _follow(store: Any, run_id: int) -> None:
    """Print progress on stderr until the run has ended."""
    from hybrid_core.runs import Dispatcher

    said, dispatcher = "", Dispatcher(store)
    while (run := store.get(run_id)).active:
        dispatcher.look()
        if run.message != said:
            said = run.message
            print(f"run {run_id}: {run.fraction:4.0%}  {said}", file=sys.stderr)
        time.sleep(0.2)


def _bury_the_dead(dispatcher: Any) -> None:
    """End runs that have no worker any more. Of one that was started before this machine was, or on
    another, that takes a while to tell."""
    dispatcher.end_the_dead()
    said: set[int] = set()
    while unsure := dispatcher.unsure():
        for run in (run for run in unsure if run.id not in said):
            print(
                f"run {run.id}: started on {run.host} before this machine was; watching whether it still moves",
                file=sys.stderr,
            )
            said.add(run.id)
        time.sleep(0.5)
        dispatcher.end_the_dead()


def _record(run: Any) -> dict[str, Any]:
    keys = (
        "id",
        "kind",
        "name",
        "status",
        "error",
        "device",
        "created_at",
        "started_at",
        "ended_at",
        "options",
        "spec_yaml",
        "parts",
    )
    return {key: getattr(run, key) for key in keys}


def _runs(arguments: argparse.Namespace) -> None:
    from hybrid_core.runs import Dispatcher, cancel, open_store

    store = open_store()
    dispatcher = Dispatcher(store)
    _bury_the_dead(dispatcher)
    if arguments.action == "list":
        found = store.list()
        _print_json([_record(run) for run in found]) if arguments.json else print(runs_table(found))
        return
    if arguments.id is None:
        raise SpecError(f"id: missing - `runs {arguments.action}` needs a run's number")
    if arguments.action == "show":
        run = store.get(arguments.id)
        _print_json(_record(run)) if arguments.json else print(run_table(_shown(run)))
    elif arguments.action == "cancel":
        if not cancel(arguments.id, store):
            raise SpecError(f"id: {arguments.id} - this run has ended already")
        dispatcher.start_next()
    else:
        try:
            store.delete(arguments.id)
        except ValueError as error:
            raise SpecError(str(error)) from None


def _shown(run: Any) -> Any:
    """The run, if it can be shown."""
    from hybrid_core.report.foreign import unreadable

    if why := unreadable(run):
        raise SpecError(f"run {run.id} - {why}; `runs show {run.id} --json` prints it as it is")
    return run


def _report(arguments: argparse.Namespace) -> None:
    from hybrid_core.report.html import report
    from hybrid_core.runs import open_store

    store = open_store()
    page = report([_shown(store.get(run_id)) for run_id in dict.fromkeys(arguments.ids)])
    _write(arguments.output, page)
    print(arguments.output)

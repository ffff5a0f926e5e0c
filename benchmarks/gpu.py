"""Measure a CUDA device part by part: `python -m benchmarks.gpu [PART ...] [--out FOLDER]`.

Each part writes FOLDER/PART.json after every step (record.py describes it). If a step fails, the
record shows the error, and the next step runs. A second call with the same folder keeps the steps
that are done and retries the others. Results are checked against eager torch or transformers before
they are timed.

The parts, in the order in which they run by default:

- devices: what the machine is, and its ceilings (matrix product, bandwidth)
- operations: each operation in Triton and eager torch, and in mamba-ssm and flash-linear-attention
  if they can run
- decode: a decode step of each design at 2K and 32K, batch 4, and the time to read weights and
  cache once
- paper: the paper's protocol (batch 4, prompt 512, totals 2K to 32K), as the explorer profiles a
  design
- prefill: a prompt of 8K through each design, and the time of its FLOPs at the matrix-product
  ceiling
- calibrate: the rates that predictions use
- niah: a quick needle test at GPU scale, of one design
- transformers: our models and those of transformers with the same weights

The designs are the five of Table 2 by default. `python -m benchmarks.measured FOLDER` makes the
device's entry in profiles/measured/ from the records. --device cpu is a dry run without a GPU, for
small designs and few --tokens; its numbers mean nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.record import AnotherDevice, Record, Result, Step, in_one_line
from benchmarks.side_by_side import best, same
from hybrid_core.costs.model import model_costs
from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.live.modules.decode import decoder
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling import throughput
from hybrid_core.live.profiling.calibrate import Calibration
from hybrid_core.live.profiling.device import environment, free_memory, resolve, synchronise
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.profiling.profile import profile
from hybrid_core.live.retrieval.niah import niah
from hybrid_core.live.retrieval.options import NiahOptions
from hybrid_core.validation import SpecError
from hybrid_core.workload import PAPER_BATCH, Workload
from kernels.dispatch import forget, ran, require_forced
from kernels.implementations import CannotRun

NIAH_DESIGN = presets.FIRST
STEPS_S = 2.0  # of decode steps at one context


class Bench:
    """One device, the designs to measure on it, and the sequence lengths and budgets."""

    def __init__(
        self, device: torch.device, specs: list[ArchSpec], tokens: int, seconds: float
    ) -> None:
        self.device = device
        self.specs = specs
        self.tokens = tokens
        self.until = time.monotonic() + seconds
        # Scaled like the paper's totals, 2K to 32K, relative to 8K.
        self.totals = tuple(tokens // 4 * 2**i for i in range(5))

    @property
    def left_s(self) -> float:
        """Seconds left of the part's budget."""
        return max(0.0, self.until - time.monotonic())

    @cached_property
    def ceilings(self) -> Result:
        """Matrix-product rate and bandwidth, measured once per part."""
        return Calibration(self.device, "bf16").peak_and_bandwidth()._asdict()


# ------------------------------------------ the parts: each returns its steps by name


def devices(bench: Bench) -> dict[str, Step]:
    """What the machine is, and its ceilings."""
    return {"machine": partial(machine, bench.device), "ceilings": lambda: bench.ceilings}


def machine(device: torch.device) -> Result:
    """Every CUDA device, and which comparison libraries can be imported."""
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    known = {name: find_spec(name) is not None for name in ("mamba_ssm", "fla", "transformers")}
    gpus = [
        {
            "name": gpu.name,
            "memory_bytes": gpu.total_memory,
            "processors": gpu.multi_processor_count,
        }
        for gpu in found
    ]
    return {"cuda_devices": gpus, "importable": known} | environment(device)


def operations(bench: Bench) -> dict[str, Step]:
    """Every implementation of every operation."""
    from benchmarks import operations as side_by_side

    return side_by_side.steps(bench.device, tokens=bench.tokens)


def decode(bench: Bench) -> dict[str, Step]:
    """A step of each design at the shortest and the longest of the paper's contexts."""
    contexts = bench.totals[0], bench.totals[-1]
    return {
        f"{spec.name} at {n} tokens": partial(decode_step, bench, spec, n)
        for spec in bench.specs
        for n in contexts
    }


@torch.inference_mode()
def decode_step(bench: Bench, spec: ArchSpec, context_len: int) -> Result:
    """The time of a decode step, after a check that both decode paths agree.

    Also the share of that time needed to read weights and cache at full bandwidth.
    """
    model = build(spec, bench.device, torch.bfloat16)
    difference = decode_paths_differ_by(model)
    forget()
    work = Workload(batch_size=PAPER_BATCH, context_len=context_len).of(spec)
    cache = throughput.filled_cache(
        model, PAPER_BATCH, context_len, work.kv_cache_dtype, work.scan_dtype
    )
    cache.length = context_len - 1
    step = throughput.step_work(decoder(model, cache), cache, context_len)
    timing = throughput.decode_steps(step, bench.device, STEPS_S)
    floor_s = bytes_per_step(spec, work) / bench.ceilings["bytes_per_s"]
    share = floor_s / timing.median_s
    speed = f"{PAPER_BATCH / timing.median_s:,.0f} tokens/s, {share:.0%} of bandwidth"
    print(f"{spec.name} at {context_len:,}: {speed}", flush=True)
    found = {
        "design": spec.name,
        "batch_size": PAPER_BATCH,
        "context_len": context_len,
        **timing.as_dict(),
    }
    return found | {
        "floor_s": floor_s,
        "share_of_bandwidth": share,
        "decode_paths_differ_by": difference,
        "kernels_ran": ran(),
    }


@torch.inference_mode()
def decode_paths_differ_by(model: HybridLM) -> float:
    """Largest difference between the logits of the decode paths, relative to the largest logit.

    Raises Mismatch if it is too large.
    """
    device = model.embed.weight.device
    tokens = torch.randint(model.spec.vocab_size, (PAPER_BATCH, 40), device=device)
    captured = logits_by(model, tokens, "auto")
    eager = logits_by(model, tokens, "eager")
    return same(captured, eager, f"{model.spec.name}, both decode paths", tolerance=0.03)


def logits_by(model: HybridLM, tokens: Tensor, path: str) -> Tensor:
    """Logits of the tokens after the first 32, decoded step by step by one of the paths."""
    cache = model.new_cache(*tokens.shape)
    model(tokens[:, :32], cache, last_only=True)
    step = decoder(model, cache, path)
    logits = []
    for token in tokens[:, 32:].split(1, 1):
        logits.append(step(token).float().clone())  # a captured step overwrites its last result
    return torch.cat(logits, 1)


def bytes_per_step(spec: ArchSpec, work: Workload) -> float:
    """Weights and cache, each read once. A step reads a tied embedding as the head."""
    costs = model_costs(spec)
    params = costs.params().active
    if not spec.tie_embeddings:
        params -= spec.vocab_size * spec.d_model  # a step reads one row of it per sequence
    cache_bytes = float(costs.cache_bytes(work.context_len, "exact", work))
    return 2 * params + work.batch_size * cache_bytes


def paper(bench: Bench) -> dict[str, Step]:
    """The paper's protocol for each design, in an equal share of the time left."""
    return {
        spec.name: partial(paper_protocol, bench, spec, len(bench.specs) - i)
        for i, spec in enumerate(bench.specs)
    }


def paper_protocol(bench: Bench, spec: ArchSpec, designs_left: int) -> Result:
    """The profile as the explorer stores it, after a check that both decode paths agree."""
    difference = decode_paths_differ_by(build(spec, bench.device, torch.bfloat16))
    free_memory(bench.device)
    parts: Result = {"decode_paths_differ_by": difference}
    budget_s = max(10.0, bench.left_s / designs_left)
    options = ProfileOptions.make(
        device=str(bench.device),
        budget_s=budget_s,
        prompt_len=bench.tokens // 16,
        totals=bench.totals,
    )
    profile(
        spec,
        options,
        parts.__setitem__,
        lambda fraction, message: print(f"{spec.name}: {message}", flush=True),
    )
    return parts


def prefill(bench: Bench) -> dict[str, Step]:
    """One long prompt of each design."""
    return {spec.name: partial(prefill_share, bench, spec) for spec in bench.specs}


@torch.inference_mode()
def prefill_share(bench: Bench, spec: ArchSpec) -> Result:
    """The time of one long prompt.

    Also the share of that time that its exact FLOPs would take at the matrix-product ceiling.
    """
    model = build(spec, bench.device, torch.bfloat16)
    tokens = torch.randint(spec.vocab_size, (1, bench.tokens), device=bench.device)
    cache = model.new_cache(1, bench.tokens)

    def once() -> None:
        cache.length = 0
        model(tokens, cache, last_only=True)
        synchronise(bench.device)

    forget()
    seconds = best({"prefill": once}, 5)["prefill"]
    flops = float(model_costs(spec).forward_flops(bench.tokens, 1))
    floor_s = flops / bench.ceilings["flops_per_s"]
    share = floor_s / seconds
    speed = f"{bench.tokens / seconds:,.0f} tokens/s, {share:.0%} of matrix products"
    print(f"{spec.name}: prefill of {bench.tokens:,} at {speed}", flush=True)
    found = {
        "design": spec.name,
        "batch_size": 1,
        "prompt_len": bench.tokens,
        "best_s": seconds,
        "floor_s": floor_s,
    }
    return found | {"share_of_matrix_products": share, "kernels_ran": ran()}


def calibrate(bench: Bench) -> dict[str, Step]:
    """The rates of this device in bf16."""

    def rates() -> Result:
        measured = Calibration(bench.device, "bf16").run(
            lambda message: print(f"calibrating: {message}", flush=True)
        )
        return measured.model_dump(mode="json")

    return {"bf16": rates}


def needles(bench: Bench) -> dict[str, Step]:
    """The quick needle test of one design, within the part's time."""

    def asked() -> Result:
        parts: Result = {}
        options = NiahOptions.make(device=str(bench.device), budget_s=max(10.0, bench.left_s))
        niah(
            presets.get(NIAH_DESIGN).spec,
            options,
            parts.__setitem__,
            lambda fraction, message: print(message, flush=True),
        )
        return parts

    return {NIAH_DESIGN: asked}


def transformers(bench: Bench) -> dict[str, Step]:
    """Our models against transformers'."""
    from benchmarks import against_transformers

    # The plain scan of transformers takes 8 GiB for 4 x 512 tokens.
    return against_transformers.steps(bench.device, bench.tokens // 16)


PARTS: dict[str, Callable[[Bench], dict[str, Step]]] = {
    "devices": devices,
    "operations": operations,
    "decode": decode,
    "paper": paper,
    "prefill": prefill,
    "calibrate": calibrate,
    "niah": needles,
    "transformers": transformers,
}


# ---------------------------------------------------------------- running them


def answers(device: torch.device) -> bool:
    """Whether the device still works in this process.

    After an illegal memory access it does not, and no later step could run.
    """
    try:
        synchronise(device)
        free_memory(device)
    except RuntimeError as error:
        print(
            f"the device no longer responds in this process ({in_one_line(error)}); "
            "call again for the steps that are left",
            flush=True,
        )
        return False
    return True


def run_part(part: str, out: Path, bench: Bench, command: str) -> bool:
    """Run the remaining steps of a part, and return whether all of its steps are done.

    If a part cannot begin, its record gives the reason.
    """
    record = Record(out / f"{part}.json", command, environment(bench.device))
    try:
        steps = PARTS[part](bench)
    except ImportError as error:
        record.cannot_begin(in_one_line(error))
        print(f"{part}: {in_one_line(error)}", flush=True)
        return False
    return record.run(steps, lambda: answers(bench.device))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="parts to run, from the list above (default: all)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("gpu-results"),
        help="the folder of the records (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=90.0,
        help="budget of a part that uses all the time it gets (default: %(default)s)",
    )
    parser.add_argument(
        "--designs",
        nargs="+",
        default=presets.TABLE2,
        help="presets or YAML files (default: Table 2)",
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tokens",
        type=int,
        default=8192,
        help="tokens of a long sequence; other lengths scale with it (default: %(default)s)",
    )
    found = parser.parse_args(arguments)
    unknown = [part for part in found.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r} - must be one of {', '.join(PARTS)}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the parts. Returns 0 if all steps are done, or 1 if one failed, with a line on why."""
    asked = parsed(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m benchmarks.gpu", *given])
    parts = asked.parts or list(PARTS)
    try:
        specs = [published.resolve(name) for name in asked.designs]
        device = resolve(asked.device)
        require_forced(device.type)
    except (SpecError, CannotRun) as error:
        for part in parts:
            Record(asked.out / f"{part}.json", command, {}).cannot_begin(str(error))
        print(error, flush=True)
        return 1
    try:
        done = []
        for part in parts:
            bench = Bench(device, specs, asked.tokens, asked.seconds)
            done.append(run_part(part, asked.out, bench, command))
    except AnotherDevice as error:
        print(error)
        return 1
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

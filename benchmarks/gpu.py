"""Everything about a CUDA device, part by part: `python -m benchmarks.gpu [PART ...] [--out
FOLDER]`.

Each part writes FOLDER/PART.json after every step (record.py says what is in it). A step that fails
is recorded as failed, and the next one runs. Called again with the same folder, what is done stays
and the rest is tried once more. Nothing that is wrong is timed: results are checked against eager
torch, or transformers, first.

The parts, in the order in which they run unless they are named:

- devices: what the machine is, and its ceilings (matrix product, bandwidth)
- operations: each operation in Triton, eager torch, and mamba-ssm and flash-linear-attention where
  they run
- decode: a step of each design at 2K and 32K, batch 4, against the time of reading weights and
  cache once
- paper: the paper's protocol (batch 4, prompt 512, totals 2K to 32K), as the explorer profiles a
  design
- prefill: a prompt of 8K of each design, against the time of its FLOPs at the matrix-product
  ceiling
- calibrate: the rates that predictions rest on
- niah: a quick needle test at GPU scale, of one design
- transformers: our models against transformers' with the same weights

Designs are the five of Table 2 unless named. `python -m benchmarks.measured FOLDER` makes the
device's entry in profiles/measured/ of the folder. --device cpu goes the same way without a GPU,
for small designs and few --tokens: a rehearsal, whose figures mean nothing."""

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
    """One device, the designs to measure on it, and how long sequences and budgets are."""

    def __init__(
        self, device: torch.device, specs: list[ArchSpec], tokens: int, seconds: float
    ) -> None:
        self.device, self.specs, self.tokens = device, specs, tokens
        self.until = time.monotonic() + seconds

        self.totals = tuple(
            tokens // 4 * 2**i for i in range(5)
        )  # as the paper's 2K to 32K are to 8K

    @property
    def left_s(self) -> float:
        """Seconds left of the part's budget."""
        return max(0.0, self.until - time.monotonic())

    @cached_property
    def ceilings(self) -> Result:
        """Matrix product and bandwidth, measured once for a part."""
        return Calibration(self.device, "bf16").peak_and_bandwidth()._asdict()


# ------------------------------------------ the parts: each gives its steps, by their names


def devices(bench: Bench) -> dict[str, Step]:
    """What the machine is, and its ceilings."""
    return {"machine": partial(machine, bench.device), "ceilings": lambda: bench.ceilings}


def machine(device: torch.device) -> Result:
    """Every CUDA device, and which of the libraries that ours are compared with can be imported."""
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
    """Both decode paths agree; then the time of a step, and the share of it that reading the bytes
    it must read would take."""
    model = build(spec, bench.device, torch.bfloat16)
    difference = decode_paths_differ_by(model)
    forget()
    work = Workload(batch_size=PAPER_BATCH, context_len=context_len).of(spec)
    cache = throughput.filled_cache(
        model, PAPER_BATCH, context_len, work.kv_cache_dtype, work.scan_dtype
    )
    cache.length = context_len - 1
    timing = throughput.decode_steps(
        throughput.step_work(decoder(model, cache), cache, context_len), bench.device, STEPS_S
    )
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
    Raises Mismatch where it is too large."""
    tokens = torch.randint(
        model.spec.vocab_size, (PAPER_BATCH, 40), device=model.embed.weight.device
    )
    captured, eager = (logits_by(model, tokens, path) for path in ("auto", "eager"))
    return same(captured, eager, f"{model.spec.name}, both decode paths", tolerance=0.03)


def logits_by(model: HybridLM, tokens: Tensor, path: str) -> Tensor:
    """Of the tokens after the first 32, step by step."""
    cache = model.new_cache(*tokens.shape)
    model(tokens[:, :32], cache, last_only=True)
    step = decoder(model, cache, path)
    return torch.cat([step(token).float().clone() for token in tokens[:, 32:].split(1, 1)], 1)


def bytes_per_step(spec: ArchSpec, work: Workload) -> float:
    """Weights and cache, each read once; a tied embedding is read as the head."""
    costs = model_costs(spec)
    held_apart = 0 if spec.tie_embeddings else spec.vocab_size * spec.d_model
    weights = 2 * (costs.params().active - held_apart)
    return weights + work.batch_size * float(costs.cache_bytes(work.context_len, "exact", work))


def paper(bench: Bench) -> dict[str, Step]:
    """The paper's protocol for each design; the part's time is shared among those that are left."""
    return {
        spec.name: partial(paper_protocol, bench, spec, len(bench.specs) - i)
        for i, spec in enumerate(bench.specs)
    }


def paper_protocol(bench: Bench, spec: ArchSpec, designs_left: int) -> Result:
    """Both decode paths agree; then the profile of the design, as the explorer stores it."""
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
    """Its time, and the share of it that its exact FLOPs would take at the matrix-product
    ceiling."""
    model = build(spec, bench.device, torch.bfloat16)
    tokens = torch.randint(spec.vocab_size, (1, bench.tokens), device=bench.device)
    cache = model.new_cache(1, bench.tokens)

    def once() -> None:
        cache.length = 0
        model(tokens, cache, last_only=True)
        synchronise(bench.device)

    forget()
    seconds = best({"prefill": once}, 5)["prefill"]
    floor_s = (
        float(model_costs(spec).forward_flops(bench.tokens, 1)) / bench.ceilings["flops_per_s"]
    )
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
    """The quick needle test of one design, in the time of the part."""

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

    return against_transformers.steps(
        bench.device, bench.tokens // 16
    )  # transformers' plain scan takes 8 GiB for 4 x 512 tokens


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
    """Whether a device still works in this process: after an access outside its memory it does not,
    and no later step could run."""
    try:
        synchronise(device)
        free_memory(device)
    except RuntimeError as error:
        print(
            f"the device no longer answers in this process ({in_one_line(error)}); "
            "call again for the steps that are left",
            flush=True,
        )
        return False
    return True


def run_part(part: str, out: Path, bench: Bench, command: str) -> bool:
    """Run what is left of a part; whether all of it is done. Why a part cannot even begin is in its
    record."""
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
        "parts", nargs="*", metavar="PART", help="of those above (default: all of them)"
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
        help="for a part that takes what it gets (default: %(default)s)",
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
        help="of a long sequence; others are in proportion (default: %(default)s)",
    )
    found = parser.parse_args(arguments)
    unknown = [part for part in found.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r} - there are {', '.join(PARTS)}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; 0 where all is done, 1 where something failed, each said in one line."""
    asked = parsed(arguments)
    command = " ".join(
        ["python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)]
    )
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
        done = [
            run_part(part, asked.out, Bench(device, specs, asked.tokens, asked.seconds), command)
            for part in parts
        ]
    except AnotherDevice as error:
        print(error)
        return 1
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())

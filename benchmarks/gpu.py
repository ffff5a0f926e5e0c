"""Everything about a CUDA device in one go: `python -m benchmarks.gpu [--seconds 420] [--out FILE]`.

Checks every operation against torch's eager form and both decode paths against each other, and measures nothing that is wrong. Then, side
by side in one run: the ceilings (matrix product, bandwidth), each operation in Triton, eager torch and mamba-ssm where it runs, our models
against transformers' with the same weights, and the paper's protocol (batch 4, prompt 512, totals 2K to 32K) for the five designs of
Table 2, with their decode steps against the time of reading weights and cache once and their prefill against the matrix-product ceiling.
Prints ratios and writes profiles/measured/<device>.json.
"""

import argparse
import json
import platform
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM

from benchmarks import operations
from benchmarks.cpu import best, same
from hybrid_core import presets
from hybrid_core.costs.model import model_costs
from hybrid_core.interop.weights import from_transformers
from hybrid_core.modules import HybridLM, build
from hybrid_core.modules.decode import decoder
from hybrid_core.profiling.calibrate import Calibration
from hybrid_core.profiling.device import environment, free_memory, synchronise
from hybrid_core.profiling.options import ProfileOptions
from hybrid_core.profiling.profile import profile
from hybrid_core.spec import ArchSpec
from hybrid_core.workload import PAPER_BATCH, Workload

MEASURED = Path(__file__).parent.parent / "profiles" / "measured"
PREFILL = 8192
Record = dict[str, Any]


def same_decode(spec: ArchSpec, device: torch.device) -> float:
    """Largest difference between the logits of both decode paths, relative to the largest logit. Ends the run where they differ."""
    model = build(spec, device, torch.bfloat16)
    tokens = torch.randint(spec.vocab_size, (PAPER_BATCH, 40), device=device)
    eager, captured = (logits_by(model, tokens, path) for path in ("eager", "auto"))
    return same(captured, eager, f"{spec.name}, both decode paths", tolerance=0.03)


@torch.inference_mode()
def logits_by(model: HybridLM, tokens: Tensor, path: str) -> Tensor:
    """Of the tokens after the first 32, step by step."""
    cache = model.new_cache(*tokens.shape)
    model(tokens[:, :32], cache, last_only=True)
    step = decoder(model, cache, path)
    return torch.cat([step(token).float().clone() for token in tokens[:, 32:].split(1, 1)], 1)


def paper_protocol(spec: ArchSpec, device: torch.device, seconds: float) -> Record:
    """The profile of one design: what the explorer stores, as it stores it."""
    parts: Record = {}
    options = ProfileOptions.make(device=str(device), budget_s=seconds)
    profile(spec, options, parts.__setitem__, lambda fraction, message: None)
    return parts


def against_ceilings(spec: ArchSpec, parts: Record) -> Record:
    """Shares of the device's ceilings: decode steps of the bytes they must read, and prefill (measured apart) of the FLOPs it must do."""
    bandwidth = parts["ceilings"]["bytes_per_s"]
    rows = {}
    for row in parts["decode"]["rows"]:
        work = Workload(batch_size=PAPER_BATCH, context_len=row["context_len"])
        floor_s = bytes_per_step(spec, work) / bandwidth
        rows[row["context_len"]] = floor_s / row["median_s"]
    return {"decode_share_of_bandwidth": rows}


def bytes_per_step(spec: ArchSpec, work: Workload) -> float:
    """Weights and cache, each read once; a tied embedding is read as the head."""
    costs = model_costs(spec)
    held_apart = 0 if spec.tie_embeddings else spec.vocab_size * spec.d_model
    weights = 2 * (costs.params().active - held_apart)
    return weights + work.batch_size * float(costs.cache_bytes(work.context_len, "exact", work))


@torch.inference_mode()
def prefill_share(spec: ArchSpec, device: torch.device, flops_per_s: float) -> Record:
    """One prompt of 8K: its exact FLOPs at the speed of the matrix-product ceiling, as a share of the time it takes."""
    model = build(spec, device, torch.bfloat16)
    tokens = torch.randint(spec.vocab_size, (1, PREFILL), device=device)
    cache = model.new_cache(1, PREFILL)

    def once() -> None:
        cache.length = 0
        model(tokens, cache, last_only=True)
        synchronise(device)

    seconds = best({"prefill": once}, 5)["prefill"]
    floor_s = float(model_costs(spec).forward_flops(PREFILL, 1)) / flops_per_s
    return {"tokens_per_s": PREFILL / seconds, "share_of_matrix_products": floor_s / seconds}


def transformers_models(device: torch.device) -> dict[str, Any]:
    """transformers' models at 350M, in bf16."""
    torch.manual_seed(0)
    size = {"vocab_size": 32_000, "hidden_size": 1024, "num_hidden_layers": 24, "tie_word_embeddings": True}
    ssm = {"num_heads": 32, "head_dim": 64, "state_size": 128, "n_groups": 1, "expand": 2, "conv_kernel": 4, "chunk_size": 256}
    attention = {"num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 2816}
    made = {
        "Mamba-2 24 x 1024": Mamba2ForCausalLM(Mamba2Config(**size, **ssm)),
        "Llama 24 x 1024": LlamaForCausalLM(LlamaConfig(**size, **attention)),
    }
    return {name: model.to(device, torch.bfloat16).eval() for name, model in made.items()}


@torch.inference_mode()
def against_transformers(theirs: Any, device: torch.device) -> Record:
    """Prefill of 4 x 2048 and the decode step after it, with the same weights; results checked first."""
    ours = from_transformers(theirs.config.to_dict(), theirs.state_dict()).to(device, torch.bfloat16)
    tokens = torch.randint(32_000, (PAPER_BATCH, 2048), device=device)
    cache = ours.new_cache(PAPER_BATCH, 4096)
    first, out = ours(tokens, cache, last_only=True), theirs(tokens, use_cache=True, logits_to_keep=1)
    error = same(first[:, -1], out.logits[:, -1], f"{theirs.config.model_type} and transformers'", tolerance=0.05)
    token, step = first[:, -1:].argmax(-1), decoder(ours, cache)
    held = {key: out[key] for key in ("cache_params", "past_key_values") if key in out}

    def timed(work: Any) -> Any:
        def once() -> None:
            work()
            synchronise(device)

        return once

    def our_step() -> None:
        cache.length = tokens.shape[1]
        step(token)

    def our_prefill() -> None:
        ours(tokens, ours.new_cache(PAPER_BATCH, 2048), last_only=True)

    works = {
        "decode": timed(our_step),
        "decode, transformers": timed(lambda: theirs(token, use_cache=True, **held)),
        "prefill": timed(our_prefill),
        "prefill, transformers": timed(lambda: theirs(tokens, use_cache=True, logits_to_keep=1)),
    }
    seconds = best(works, 10)
    ratios = {f"{what}_times_as_fast": seconds[f"{what}, transformers"] / seconds[what] for what in ("decode", "prefill")}
    return {"seconds": seconds, "difference": error} | ratios


def designs(device: torch.device, specs: list[ArchSpec], until: float) -> Record:
    """Each design by the paper's protocol and against the ceilings, in the time there is."""
    found = {}
    for i, spec in enumerate(specs):
        left = (until - time.monotonic()) / (len(specs) - i)
        error = same_decode(spec, device)
        free_memory(device)
        parts = paper_protocol(spec, device, max(10.0, left - 10.0))
        free_memory(device)
        shares = against_ceilings(spec, parts) | {"prefill_8k": prefill_share(spec, device, parts["ceilings"]["flops_per_s"])}
        free_memory(device)
        found[spec.name] = {"decode_paths_differ_by": error, "shares": shares, "profile": parts}
        said = ", ".join(f"{n:,}: {share:.0%}" for n, share in shares["decode_share_of_bandwidth"].items())
        prefill = shares["prefill_8k"]["share_of_matrix_products"]
        print(f"{spec.name}: decode, share of bandwidth at {said}; prefill 8K {prefill:.0%} of matrix products", flush=True)
    return found


def main() -> None:
    """Check, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="where the record goes (default: profiles/measured/<device>.json)")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    device = torch.device("cuda")
    record: Record = {"command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]), "date": datetime.now(UTC).date().isoformat()}
    record |= {"environment": environment(device), "python": platform.python_version()}
    record["ceilings"] = Calibration(device, "bf16").peak_and_bandwidth()
    print(record["environment"]["name"], record["ceilings"])
    record["operations"] = operations.compare()
    record["transformers"] = {name: against_transformers(model, device) for name, model in transformers_models(device).items()}
    for name, found in record["transformers"].items():
        decode, prefill = found["decode_times_as_fast"], found["prefill_times_as_fast"]
        print(f"{name}: decode {decode:.2f}, prefill {prefill:.2f} times transformers' speed")
    free_memory(device)
    record["designs"] = designs(device, [presets.get(name).spec for name in presets.TABLE2], until)
    name = re.sub(r"[^a-z0-9]+", "_", record["environment"]["name"].lower()).strip("_")
    path = arguments.out or MEASURED / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()

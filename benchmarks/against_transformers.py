"""Our models compared with transformers, with the same weights: a part of `benchmarks.gpu`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM

from benchmarks.record import Result, Step
from benchmarks.side_by_side import best, same
from hybrid_core.live.modules.decode import decoder
from hybrid_core.live.profiling.device import synchronise
from hybrid_core.live.weights import from_transformers
from hybrid_core.workload import PAPER_BATCH

SIZE = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "tie_word_embeddings": True,
}
SSM = {
    "num_heads": 32,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 1,
    "expand": 2,
    "conv_kernel": 4,
    "chunk_size": 256,
}
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 2816}
MODELS: dict[str, Callable[[], Any]] = {
    "Mamba-2 24 x 1024": lambda: Mamba2ForCausalLM(Mamba2Config(**SIZE, **SSM)),
    "Llama 24 x 1024": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, **HEADS)),
}


def steps(device: torch.device, tokens: int) -> dict[str, Step]:
    """One benchmark step per 350M-parameter model, with prompts of `tokens`."""
    return {name: partial(compared, name, device, tokens) for name in MODELS}


@torch.inference_mode()
def compared(name: str, device: torch.device, tokens: int) -> Result:
    """Prefill of four prompts and the decode step after it, in bf16.

    Results are compared first, in float32: with these random weights, rounding to bf16 alone
    changes transformers' own logits by a third.
    """
    torch.manual_seed(0)
    theirs = MODELS[name]().to(device).eval()
    ours = from_transformers(theirs.config.to_dict(), theirs.state_dict()).to(device)
    prompt = torch.randint(
        SIZE["vocab_size"],
        (PAPER_BATCH, tokens),
        device=device,
    )
    difference = same(
        ours(prompt[:1], last_only=True),
        theirs(prompt[:1], logits_to_keep=1).logits,
        f"{name} and transformers'",
        5e-3,
    )
    theirs = theirs.to(torch.bfloat16)
    ours = ours.to(torch.bfloat16)
    cache = ours.new_cache(PAPER_BATCH, 2 * tokens)
    first = ours(prompt, cache, last_only=True)
    out = theirs(prompt, use_cache=True, logits_to_keep=1)
    token = first[:, -1:].argmax(-1)
    step = decoder(ours, cache)
    held = {key: out[key] for key in ("cache_params", "past_key_values") if key in out}

    def timed(work: Callable[[], object]) -> Callable[[], None]:
        def once() -> None:
            work()
            synchronise(device)

        return once

    def our_step() -> None:
        cache.length = tokens
        step(token)

    def our_prefill() -> None:
        ours(prompt, ours.new_cache(PAPER_BATCH, tokens), last_only=True)

    works = {
        "decode": timed(our_step),
        "decode, transformers": timed(lambda: theirs(token, use_cache=True, **held)),
        "prefill": timed(our_prefill),
        "prefill, transformers": timed(lambda: theirs(prompt, use_cache=True, logits_to_keep=1)),
    }
    seconds = best(works, 10)
    decode = seconds["decode, transformers"] / seconds["decode"]
    prefill = seconds["prefill, transformers"] / seconds["prefill"]
    print(f"{name}: decode {decode:.2f}, prefill {prefill:.2f} times transformers' speed")
    return {
        "seconds": seconds,
        "difference": difference,
        "decode_times_as_fast": decode,
        "prefill_times_as_fast": prefill,
    }

"""Our modules on a CPU, compared with transformers and with this machine's ceilings.

`python -m benchmarks.cpu [--large]` first checks each result against transformers with the same
weights. Then it times everything in turns in one run. The shortest of several turns counts, because
other work on the machine can only add time. `--large` adds the forward pass of the five designs of
Table 2 at 1B, 1 x 2048, bf16, and the time of their matrix products alone (takes a few minutes).
"""

import argparse
import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM

from benchmarks.side_by_side import Mismatch, Work, best, same
from hybrid_core.design import presets
from hybrid_core.live.modules.decode import decoder
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.profiling.device import describe
from hybrid_core.live.weights import from_transformers

SIZE = {"vocab_size": 32_000, "hidden_size": 768, "num_hidden_layers": 24}
SSM = {
    "num_heads": 24,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 1,
    "expand": 2,
    "conv_kernel": 4,
    "chunk_size": 256,
}
HEADS = {
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
}


def products(weights: Iterable[Tensor], rows: int) -> Work:
    """The product of `rows` vectors with every weight.

    A forward pass over that many tokens needs at least these products.
    """
    pairs = []
    for weight in weights:
        x = torch.randn(rows, weight.shape[1], dtype=weight.dtype)
        pairs.append((x, weight))

    def work() -> None:
        for x, weight in pairs:
            F.linear(x, weight)

    return work


def linear_weights(model: nn.Module) -> Iterator[Tensor]:
    """The weight of every linear layer."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module.weight


def matrices(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter that a decode step multiplies by, including a tied head."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            yield parameter


def models() -> Iterator[tuple[str, nn.Module]]:
    """The transformers models whose weights ours use, with their names."""
    torch.manual_seed(0)
    mamba = Mamba2Config(**SIZE, **SSM, tie_word_embeddings=True)
    yield "Mamba-2 24 x 768", Mamba2ForCausalLM(mamba).eval()
    llama = LlamaConfig(**SIZE, **HEADS, tie_word_embeddings=True)
    yield "Llama 24 x 768", LlamaForCausalLM(llama).eval()


def mixer_forward(ours: HybridLM, theirs: nn.Module) -> None:
    """One Mamba-2 mixer, 1 x 2048 x 768."""
    x = torch.randn(1, 2048, 768)
    mine = ours.layers[0].mixer
    other = theirs.backbone.layers[0].mixer
    same(mine(x), other(x), "mixer and transformers'")
    half = build_half(mine)
    x_half = x.bfloat16()
    works = {
        "ours": lambda: mine(x),
        "transformers": lambda: other(x),
        "matrix products": mixer_products(mine, x.dtype),
        "ours bf16": lambda: half(x_half),
        "matrix products bf16": mixer_products(half, torch.bfloat16),
    }
    table("Mamba-2 mixer forward, 1 x 2048 x 768", best(works, 10), "matrix products")


def build_half(module: nn.Module) -> nn.Module:
    """A copy in bf16."""
    return copy.deepcopy(module).bfloat16()


def mixer_products(mixer: nn.Module, dtype: torch.dtype) -> Work:
    """The mixer's matrix products alone: both projections, and the scan's, chunk by chunk."""
    s = mixer.spec
    projections = products(linear_weights(mixer), 2048)
    length = s.chunk_size
    chunks = 2048 // length
    B = torch.randn(chunks, length, s.d_state, dtype=dtype)
    C = torch.randn(chunks, length, s.d_state, dtype=dtype)
    weights = torch.randn(s.n_heads, length, length, dtype=dtype)
    x = torch.randn(s.n_heads, length, s.head_dim, dtype=dtype)
    state = torch.randn(s.d_state, s.d_ssm, dtype=dtype)
    wide = torch.randn(s.d_ssm, length, dtype=dtype)

    def work() -> None:
        projections()
        for i in range(chunks):
            C[i] @ B[i].T
            weights @ x
            C[i] @ state
            wide @ B[i]

    return work


def stepper(model: HybridLM, prompt: Tensor, path: str) -> Callable[[Tensor], Tensor]:
    """A decode step on one of the paths of `decoder`. Every call decodes the first token again."""
    cache = model.new_cache(1, 4096)
    model(prompt, cache, last_only=True)
    step = decoder(model, cache, path)

    def work(token: Tensor) -> Tensor:
        cache.length = prompt.shape[1]
        return step(token)

    return work


@torch.inference_mode()
def decode(name: str, ours: HybridLM, theirs: nn.Module) -> None:
    """One decode step after a prompt of 64 tokens, batch 1."""
    prompt = torch.randint(SIZE["vocab_size"], (1, 64))
    out = theirs(prompt, use_cache=True)
    same(
        ours(prompt)[:, -1],
        out.logits[:, -1],
        f"{name}, prefill, and transformers'",
    )
    token = out.logits[:, -1:].argmax(-1)
    held = {key: out[key] for key in ("cache_params", "past_key_values") if key in out}
    half = build_half(ours)
    steps = {
        "ours": stepper(ours, prompt, "eager"),
        "ours compiled": stepper(ours, prompt, "compiled"),
        "ours bf16": stepper(half, prompt, "eager"),
        "ours bf16 compiled": stepper(half, prompt, "compiled"),
    }
    expected = theirs(token, use_cache=True, **held).logits
    for path in ("ours", "ours compiled"):
        same(steps[path](token), expected, f"{name}, {path}, one step, and transformers'")
    works: dict[str, Work] = {path: partial(step, token) for path, step in steps.items()} | {
        "transformers": lambda: theirs(token, use_cache=True, **held),
        "weights read once": products(matrices(ours), 1),
        "weights read once bf16": products(matrices(half), 1),
    }
    table(f"{name}: one decode step, batch 1", best(works, 10), "weights read once")


@torch.inference_mode()
def large() -> None:
    """The forward pass of the five designs of Table 2 at 1B."""
    for name in presets.TABLE2:
        model = build(presets.get(name).spec, dtype=torch.bfloat16)
        tokens = torch.randint(model.spec.vocab_size, (1, 2048))
        works = {
            "ours": lambda m=model, t=tokens: m(t, last_only=True),
            "matrix products": products(linear_weights(model), 2048),
        }
        table(f"{name}: forward 1 x 2048, bf16", best(works, 2), "matrix products")


def table(title: str, seconds: dict[str, float], floor: str) -> None:
    """Print milliseconds, the ratio to `floor`, and how much faster than transformers we are."""
    print(f"{title}\n  {'':26}{'ms':>10}{'x ' + floor:>24}")
    for name, value in seconds.items():
        print(f"  {name:26}{1000 * value:>10.1f}{value / seconds[floor]:>24.2f}")
    if "transformers" in seconds:
        ratio = seconds["transformers"] / seconds["ours"]
        print(f"  ours is {ratio:.2f} times as fast as transformers", flush=True)
    if "ours bf16" in seconds:
        ratio = seconds["ours"] / seconds["ours bf16"]
        print(f"  bf16 is {ratio:.2f} times as fast as fp32", flush=True)


def main() -> None:
    """Check, measure, print. Stops at the first result that differs from transformers'."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    try:
        compare(arguments.large)
    except Mismatch as error:
        raise SystemExit(str(error)) from None


def compare(with_large: bool) -> None:
    """Check and time the models one by one."""
    print(describe(torch.device("cpu")))
    for name, theirs in models():
        ours = from_transformers(theirs.config.to_dict(), theirs.state_dict())
        if "Mamba" in name:
            with torch.inference_mode():
                mixer_forward(ours, theirs)
        decode(name, ours, theirs)
    if with_large:
        large()


if __name__ == "__main__":
    main()

"""Our modules on a CPU beside transformers' and beside this machine's ceilings: `python -m
benchmarks.cpu [--large]`.

Each result is checked against transformers with the same weights first. Then everything is timed
side by side, in turns, in one run; the best of several turns counts, since other work on the
machine only ever adds. `--large` adds the forward of the five designs of Table 2 at 1B, 1 x 2048,
bf16, beside the time of their matrix products alone (some minutes)."""

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


def products(weights: Iterable[Tensor], rows: int) -> Work:
    """The product of `rows` vectors, made before, with every weight: what a forward over as many
    tokens cannot do without."""
    pairs = [(torch.randn(rows, weight.shape[1], dtype=weight.dtype), weight) for weight in weights]

    def work() -> None:
        for x, weight in pairs:
            F.linear(x, weight)

    return work


def linear_weights(model: nn.Module) -> Iterator[Tensor]:
    """Of every linear layer."""
    return (module.weight for module in model.modules() if isinstance(module, nn.Linear))


def matrices(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter that a decode step multiplies by: tied head included."""
    return (parameter for parameter in model.parameters() if parameter.ndim == 2)


def models() -> Iterator[tuple[str, nn.Module]]:
    """transformers' models, whose weights ours take."""
    torch.manual_seed(0)
    yield (
        "Mamba-2 24 x 768",
        Mamba2ForCausalLM(Mamba2Config(**SIZE, **SSM, tie_word_embeddings=True)).eval(),
    )
    heads = {"num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 2048}
    yield (
        "Llama 24 x 768",
        LlamaForCausalLM(LlamaConfig(**SIZE, **heads, tie_word_embeddings=True)).eval(),
    )


def mixer_forward(ours: HybridLM, theirs: nn.Module) -> None:
    """One Mamba-2 mixer, 1 x 2048 x 768."""
    x = torch.randn(1, 2048, 768)
    mine, other = ours.layers[0].mixer, theirs.backbone.layers[0].mixer
    same(mine(x), other(x), "mixer and transformers'")
    half, x_half = build_half(mine), x.bfloat16()
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
    """The mixer's matrix products alone: both projections, and the scan's products over chunks of
    the spec's size."""
    s, projections = mixer.spec, products(linear_weights(mixer), 2048)
    chunks, length = 2048 // s.chunk_size, s.chunk_size
    B, C = (torch.randn(chunks, length, s.d_state, dtype=dtype) for _ in range(2))
    weights = torch.randn(s.n_heads, length, length, dtype=dtype)
    x, state = (
        torch.randn(s.n_heads, length, s.head_dim, dtype=dtype),
        torch.randn(s.d_state, s.d_ssm, dtype=dtype),
    )
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
    """A decode step after the prompt, by one of the paths of `decoder`; every call is the first one
    after it."""
    cache = model.new_cache(1, 4096)
    model(prompt, cache, last_only=True)
    step = decoder(model, cache, path)

    def work(token: Tensor) -> Tensor:
        cache.length = prompt.shape[1]
        return step(token)

    return work


@torch.inference_mode()
def decode(name: str, ours: HybridLM, theirs: nn.Module) -> None:
    """One step after a prompt of 64, batch 1."""
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
    """Forward of the five designs of Table 2 at 1B."""
    for name in presets.TABLE2:
        model = build(presets.get(name).spec, dtype=torch.bfloat16)
        tokens = torch.randint(model.spec.vocab_size, (1, 2048))
        works = {
            "ours": lambda m=model, t=tokens: m(t, last_only=True),
            "matrix products": products(linear_weights(model), 2048),
        }
        table(f"{name}: forward 1 x 2048, bf16", best(works, 2), "matrix products")


def table(title: str, seconds: dict[str, float], floor: str) -> None:
    """Milliseconds, and the ratio to the floor and of transformers to ours."""
    print(f"{title}\n  {'':26}{'ms':>10}{'x ' + floor:>24}")
    for name, value in seconds.items():
        print(f"  {name:26}{1000 * value:>10.1f}{value / seconds[floor]:>24.2f}")
    if "transformers" in seconds:
        ratio = seconds["transformers"] / seconds["ours"]
        print(f"  ours is {ratio:.2f} times as fast as transformers", flush=True)
    if "ours bf16" in seconds:
        print(
            f"  bf16 is {seconds['ours'] / seconds['ours bf16']:.2f} times as fast as fp32",
            flush=True,
        )


def main() -> None:
    """Check, measure, print. Ends at the first result that is not transformers'."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    try:
        compare(arguments.large)
    except Mismatch as error:
        raise SystemExit(str(error)) from None


def compare(with_large: bool) -> None:
    """Everything, model after model."""
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

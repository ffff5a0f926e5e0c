"""A decode step over tensors that stay in place: what a CUDA graph captures, and what is compiled."""

import shutil

import pytest
import torch
from torch import Tensor

from hybrid_core.modules import HybridLM, build, generate
from hybrid_core.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.modules.decode import StaticStep, decoder, resolve
from hybrid_core.spec import ArchSpec, MoE
from tests.conftest import assert_close
from tests.designs import INTRA_COMBINATIONS, axes_id, design, intra_design
from tests.test_modules import LENGTH, VARIANTS, lively, some_tokens


def uncaptured(model: HybridLM, cache: Cache) -> StaticStep:
    """What a graph is captured from: the step, after its warm-up."""
    static = StaticStep(model, cache, lambda static: static.step)
    static.warm_up()
    return static


@torch.no_grad()
def stepped(model: HybridLM, tokens: Tensor, prompt_len: int, **dtypes: torch.dtype) -> Tensor:
    """Logits of all positions from the prompt's last on."""
    cache = model.new_cache(*tokens.shape, **({"state_dtype": torch.float64} | dtypes))
    logits = [model(tokens[:, :prompt_len], cache, last_only=True)]
    step = uncaptured(model, cache)
    logits += [step(token).clone() for token in tokens[:, prompt_len:].split(1, 1)]
    with pytest.raises(ValueError, match="room"):
        step(tokens[:, :1])
    return torch.cat(logits, 1)


@torch.no_grad()
def step_agrees(spec: ArchSpec) -> None:
    model, tokens = lively(spec), some_tokens()
    tolerance = 1e-6 if isinstance(spec.ffn, MoE) else 1e-10  # a router's scores are float32 in any model
    for prompt_len in (1, 17):
        assert_close(f"after {prompt_len}", stepped(model, tokens, prompt_len), model(tokens)[:, prompt_len - 1 :], tolerance)


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_static_steps_equal_a_whole_forward_pass(spec: ArchSpec) -> None:
    step_agrees(spec)


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS[::3], ids=axes_id)
def test_static_steps_equal_a_whole_forward_pass_for_combinations_of_axes(axes: dict[str, str]) -> None:
    step_agrees(intra_design(axes))


@pytest.mark.parametrize(("kv", "state", "tolerance"), [("bf16", "fp32", 0.02), ("fp8", "fp16", 0.1)])
def test_static_steps_over_a_narrow_cache_stay_near(kv: str, state: str, tolerance: float) -> None:
    model, tokens = build(design("AMSH")), some_tokens()
    logits = stepped(model, tokens, 17, kv_dtype=TORCH_DTYPES[kv], state_dtype=TORCH_DTYPES[state])
    assert_close("logits", logits, model(tokens)[:, 16:], tolerance)


def test_eager_is_the_model_itself_and_auto_means_it_on_a_cpu() -> None:
    model, tokens = build(design("AMSH")), some_tokens()
    cache = model.new_cache(2, LENGTH)
    step = decoder(model, cache)
    with torch.no_grad():
        logits = torch.cat([step(token) for token in tokens.split(1, 1)], 1)
        assert_close("logits", logits, model(tokens), 1e-5)


@pytest.mark.parametrize(
    ("path", "device", "line"),
    [("graph", "cpu", "CUDA graphs need a CUDA device"), ("fast", "cuda", "'fast' - must be auto, eager, graph or compiled")],
)
def test_a_path_that_a_device_lacks_is_refused(path: str, device: str, line: str) -> None:
    with pytest.raises(ValueError, match=f"^decode: .*{line}"):
        resolve(path, device)


def test_auto_is_a_graph_on_cuda() -> None:
    assert resolve("auto", "cuda") == "graph"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_generates_the_tokens_of_plain_generation() -> None:
    model, prompt = lively(design("AM"), torch.float32), some_tokens(9)
    cache = model.new_cache(2, 21)
    with torch.inference_mode():
        token = model(prompt, cache, last_only=True)[:, -1].argmax(-1, keepdim=True)
        step, out = decoder(model, cache, "compiled"), [token]
        for _ in range(11):
            out.append(step(out[-1])[:, -1].argmax(-1, keepdim=True))
    assert torch.cat(out, 1).tolist() == generate(model, prompt, 12).tolist()

"""Captured decode steps against the model's own float64 forward pass on the CPU, and against eager
steps on the same device."""

import pytest
import torch
from torch import Tensor

from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import published
from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.live.modules.decode import decoder
from hybrid_core.live.modules.model import HybridLM, build
from hybrid_core.live.retrieval.proxy import proxy
from kernels.dispatch import forget, ran
from tests.conftest import assert_close
from tests.designs import INTRA_COMBINATIONS, axes_id, design, intra_design
from tests.live.test_modules import LENGTH, VARIANTS, lively, some_tokens

pytestmark = pytest.mark.gpu

PROMPT = 9
CLOSE = 2e-4  # of float32; on a CPU the error is 2e-5 at most
NEAR = {"bf16": 0.03, "fp16": 0.006}  # thrice the error on a CPU
# One published model of every family that our modules build; tests/test_gpu_run.py says when one is
# missing.
FAMILIES = (
    "Bamba-9B",
    "Falcon-H1-1.5B",
    "Falcon-Mamba-7B",
    "Granite-4.0-H-tiny",
    "Hymba-1.5B-Base",
    "Jamba-v0.1",
    "Llama-3.2-1B",
)
FAMILIES += ("Mamba-Codestral-7B-v0.1", "Nemotron-H-8B", "Samba-1.3B", "Zamba-7B-v1", "Zamba2-2.7B")


def small(name: str) -> ArchSpec:
    """A published model in small, with everything that sets its family apart."""
    return proxy(published.models()[name].spec, 64, 256, 50)


def on(device: torch.device, model: HybridLM, dtype: torch.dtype = torch.float32) -> HybridLM:
    """A copy of a model on a device, in a dtype."""
    copied = build(model.spec, device, dtype)
    copied.load_state_dict(model.state_dict())
    return copied


def captured(device: torch.device) -> str:
    """The decode path under test; in a rehearsal there are no graphs."""
    return "graph" if device.type == "cuda" else "eager"


@torch.inference_mode()
def continued(
    model: HybridLM, tokens: Tensor, path: str, **dtypes: torch.dtype
) -> tuple[Tensor, Cache]:
    """Logits from the prompt's last token on, step by step, and the cache after the last."""
    tokens = tokens.to(model.embed.weight.device)
    cache = model.new_cache(*tokens.shape, **dtypes)
    logits = [model(tokens[:, :PROMPT], cache, last_only=True)]
    step = decoder(model, cache, path)
    logits += [step(token).clone() for token in tokens[:, PROMPT:].split(1, 1)]
    return torch.cat(logits, 1).cpu(), cache


@torch.inference_mode()
def truth(model: HybridLM, tokens: Tensor) -> tuple[Tensor, Cache]:
    """The same of one forward pass over all tokens, in the model's own precision."""
    cache = model.new_cache(*tokens.shape, state_dtype=torch.float64)
    return model(tokens, cache)[:, PROMPT - 1 :], cache


def assert_same_caches(actual: Cache, expected: Cache, tolerance: float) -> None:
    assert actual.length == expected.length
    for index, (one, other) in enumerate(zip(actual.tensors(), expected.tensors(), strict=True)):
        assert_close(f"cache tensor {index}", one.cpu().double(), other.cpu().double(), tolerance)


def graph_agrees(model: HybridLM, device: torch.device) -> None:
    """In float32, against the model itself in float64 on the CPU and against eager steps; logits
    and caches."""
    tokens = some_tokens()
    logits, cache = truth(model, tokens)
    live = on(device, model)
    eager_logits, eager_cache = continued(live, tokens, "eager")
    assert_close("eager logits and float64", eager_logits.double(), logits, CLOSE)
    graph_logits, graph_cache = continued(live, tokens, captured(device))
    assert_close("graph logits and float64", graph_logits.double(), logits, CLOSE)
    assert_close("graph logits and eager", graph_logits, eager_logits, CLOSE)
    assert_same_caches(graph_cache, cache, CLOSE)
    assert_same_caches(graph_cache, eager_cache, CLOSE)


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_a_graph_of_every_kind_leaves_the_logits_and_the_cache_of_one_forward_pass(
    spec: ArchSpec, device: torch.device
) -> None:
    graph_agrees(lively(spec), device)


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS[::5], ids=axes_id)
def test_a_graph_of_every_fusion_leaves_the_logits_and_the_cache_of_one_forward_pass(
    axes: dict[str, str], device: torch.device
) -> None:
    graph_agrees(lively(intra_design(axes)), device)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_graph_of_every_family_leaves_the_logits_and_the_cache_of_one_forward_pass(
    name: str, device: torch.device
) -> None:
    graph_agrees(lively(small(name), spread=0.1), device)  # deeper: more would let rounding grow


DENSE = (
    "A",
    "S",
    "M",
    "H",
    "D",
    "N",
    "AMSH",
    "Mamba-1",
    "Samba",
    "shared blocks",
)  # experts that tie may change places in half precision


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", DENSE)
def test_a_graph_in_half_precision_is_near_float64_and_eager(
    name: str, dtype: str, device: torch.device
) -> None:
    model, tokens = build(VARIANTS[name], dtype=torch.float64), some_tokens()
    live = on(device, model, TORCH_DTYPES[dtype])
    graph_logits, graph_cache = continued(live, tokens, captured(device), state_dtype=torch.float32)
    eager_logits, eager_cache = continued(live, tokens, "eager", state_dtype=torch.float32)
    assert_close("logits and float64", graph_logits, truth(model, tokens)[0], NEAR[dtype])
    assert_close("logits and eager", graph_logits, eager_logits, NEAR[dtype])
    assert_same_caches(graph_cache, eager_cache, NEAR[dtype])


@pytest.mark.parametrize(
    ("kv", "state", "tolerance"),
    [("bf16", "fp32", 0.02), ("fp16", "bf16", 0.02), ("fp8", "fp16", 0.1)],
)
def test_a_graph_over_a_narrow_cache_stays_near(
    kv: str, state: str, tolerance: float, device: torch.device
) -> None:
    model, tokens = build(design("AMSH"), dtype=torch.float64), some_tokens()
    dtypes = {"kv_dtype": TORCH_DTYPES[kv], "state_dtype": TORCH_DTYPES[state]}
    logits, _ = continued(on(device, model), tokens, captured(device), **dtypes)
    assert_close("logits", logits.double(), truth(model, tokens)[0], tolerance)


@torch.inference_mode()
def test_a_graph_outlives_the_longer_tables_of_another_model(device: torch.device) -> None:
    """Models with the same rotary settings share their tables, which grow and change their dtype: a
    graph must not read freed ones."""
    model, tokens = lively(design("AMS")), some_tokens()
    expected, _ = truth(model, tokens)
    live = on(device, model)
    cache = live.new_cache(*tokens.shape)
    live(tokens[:, :PROMPT].to(device), cache, last_only=True)
    step = decoder(live, cache, captured(device))
    longer = some_tokens(40 * LENGTH).to(device)
    on(device, model, torch.bfloat16)(longer)
    on(device, model)(longer)
    litter = [
        torch.full((40 * LENGTH, 1, 8), float("nan"), device=device) for _ in range(8)
    ]  # where tables may have been
    logits = torch.cat(
        [step(token).clone() for token in tokens[:, PROMPT:].to(device).split(1, 1)], 1
    )
    assert_close("logits", logits.cpu().double(), expected[:, 1:], CLOSE)
    assert len(litter) == 8


@torch.inference_mode()
def test_graphs_of_two_models_take_turns(device: torch.device) -> None:
    tokens, steps, expected = some_tokens(), [], []
    for pattern in ("AM", "SH"):
        model = lively(design(pattern))
        expected.append(truth(model, tokens)[0][:, 1:])
        live = on(device, model)
        cache = live.new_cache(*tokens.shape)
        live(tokens[:, :PROMPT].to(device), cache, last_only=True)
        steps.append(decoder(live, cache, captured(device)))
    by_turns = [
        [step(token).clone() for step in steps]
        for token in tokens[:, PROMPT:].to(device).split(1, 1)
    ]
    for i, whole in enumerate(expected):
        assert_close(
            f"model {i}", torch.cat([row[i] for row in by_turns], 1).cpu().double(), whole, CLOSE
        )


@pytest.mark.parametrize("pattern", ["A", "AMSH", "DN"])
def test_a_graph_on_a_device_that_is_not_the_current_one_equals_eager(
    pattern: str, second_device: torch.device
) -> None:
    graph_agrees(lively(design(pattern)), second_device)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_prefill_and_graph_run_in_triton_throughout(dtype: str, device: torch.device) -> None:
    live = build(design("AMSHDN", intra={"qk_head_dim": 6}), device, TORCH_DTYPES[dtype])
    forget()
    continued(live, some_tokens(), captured(device))
    due = "triton" if device.type == "cuda" else "eager"
    assert set(ran().values()) == {due}, ran()


@pytest.mark.timeout(240)
@torch.inference_mode()
def test_a_compiled_step_equals_eager(device: torch.device) -> None:
    model, tokens = lively(design("AMS")), some_tokens()
    logits, _ = continued(
        on(device, model), tokens, "compiled" if device.type == "cuda" else "eager"
    )
    assert_close("logits", logits.double(), truth(model, tokens)[0], CLOSE)

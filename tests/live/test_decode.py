"""A decode step over tensors that stay in place: what a CUDA graph captures, and what is
compiled."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hybrid_core.design.spec import ArchSpec
from hybrid_core.ffns.moe import MoE
from hybrid_core.live.modules.cache import TORCH_DTYPES, Cache
from hybrid_core.live.modules.decode import StaticStep, _captured, decoder, resolve
from hybrid_core.live.modules.generate import generate
from hybrid_core.live.modules.model import HybridLM, build
from tests.conftest import assert_close
from tests.designs import INTRA_COMBINATIONS, axes_id, design, intra_design
from tests.live.test_modules import LENGTH, VARIANTS, lively, some_tokens


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
    tolerance = (
        1e-6 if isinstance(spec.ffn, MoE) else 1e-10
    )  # a router's scores are float32 in any model
    for prompt_len in (1, 17):
        assert_close(
            f"after {prompt_len}",
            stepped(model, tokens, prompt_len),
            model(tokens)[:, prompt_len - 1 :],
            tolerance,
        )


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_static_steps_equal_a_whole_forward_pass(spec: ArchSpec) -> None:
    step_agrees(spec)


@pytest.mark.parametrize("axes", INTRA_COMBINATIONS[::3], ids=axes_id)
def test_static_steps_equal_a_whole_forward_pass_for_combinations_of_axes(
    axes: dict[str, str],
) -> None:
    step_agrees(intra_design(axes))


@pytest.mark.parametrize(
    ("kv", "state", "tolerance"), [("bf16", "fp32", 0.02), ("fp8", "fp16", 0.1)]
)
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
    [
        ("graph", "cpu", "CUDA graphs need a CUDA device"),
        ("fast", "cuda", "'fast' - must be auto, eager, graph or compiled"),
    ],
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


# ---------------------------------------------------------------- what a captured graph rests on


class Cuda:
    """Two devices as torch.cuda sees them: a stream lies on the device that was current when it was
    made, entering one makes its device current, and work goes to the current device. torch's own
    `graph` runs over it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.current, self.work, self.capturing = 0, [], False
        patch.setattr(torch.cuda, "Stream", self.made_stream)
        patch.setattr(torch.cuda, "current_stream", self.made_stream)
        patch.setattr(torch.cuda, "stream", lambda stream: self.on(stream.device))
        patch.setattr(torch.cuda, "device", lambda device: self.on(device.index))
        patch.setattr(
            torch.cuda,
            "CUDAGraph",
            lambda: SimpleNamespace(capture_begin=self.begin, capture_end=self.end),
        )
        patch.setattr(torch.cuda.graph, "default_capture_stream", None)
        for name in ("synchronize", "empty_cache"):
            patch.setattr(torch.cuda, name, lambda: None)
        patch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)

    def made_stream(self) -> Any:
        return SimpleNamespace(device=self.current, wait_stream=lambda other: None)

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before

    def begin(self, *args: Any, **kwargs: Any) -> None:
        self.capturing = True

    def end(self) -> None:
        self.capturing = False

    def static(self, device: int) -> Any:
        """A step on one of the devices, whose work is written down."""
        step = lambda: self.work.append((device, self.current, self.capturing))  # noqa: E731
        return SimpleNamespace(
            token=SimpleNamespace(device=torch.device("cuda", device)), warm_up=step, step=step
        )


def test_a_graph_is_captured_on_the_models_device_whatever_is_current_and_was_captured_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    for device in (0, 1, 0):
        cuda.work.clear()
        _captured(cuda.static(device))
        assert cuda.work == [(device, device, False), (device, device, True)]
        assert cuda.current == 0


@pytest.mark.parametrize("path", ["eager", "static"])
def test_a_decoder_keeps_nothing_for_a_backward_pass(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gradients on, the operations that have no backward pass would give way to slower
    ones."""
    seen = []
    forward = HybridLM.continue_from

    def noted(self: HybridLM, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(HybridLM, "continue_from", noted)
    monkeypatch.setattr(
        "hybrid_core.live.modules.decode._compiled", lambda static: static.warm_up() or static.step
    )
    model = build(design("AMSH"))
    step = decoder(model, model.new_cache(1, 4), "eager" if path == "eager" else "compiled")
    logits = step(some_tokens(1)[:1])
    assert not logits.requires_grad and len(seen) == (1 if path == "eager" else 4) and not any(seen)


def test_a_captured_table_stays_as_it_is_beside_longer_ones_and_ones_of_other_dtypes() -> None:
    """What a graph reads is memory: no later use of the same rotation may free it or write to
    it."""
    model, tokens = build(design("A")), some_tokens()
    static = uncaptured(model, model.new_cache(1, LENGTH))
    (table,) = {id(tables): tables for tables in static.tables}.values()
    held, where = table.cos.clone(), table.cos.data_ptr()
    build(design("A"), dtype=torch.bfloat16)(tokens)
    assert (
        model.layers[0].mixer.rope.reserve(1, model.embed.weight).cos.data_ptr() == where
    )  # another dtype has tables of its own
    model(tokens.repeat(1, 4))  # longer than the table
    assert static.tables[0].cos.data_ptr() == where and torch.equal(static.tables[0].cos, held)
    assert model.layers[0].mixer.rope.reserve(1, model.embed.weight).cos.data_ptr() != where

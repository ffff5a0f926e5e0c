"""Decoding without launch overhead: one step, captured as a CUDA graph or compiled.

All tensors of the step stay in place. The token and its position are tensors that every step
overwrites. So the same graph, or the same compiled code, serves every position. gpt-fast decodes
this way, too.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Cache
from hybrid_core.live.modules.model import HybridLM
from hybrid_core.live.modules.rope import Rope, Tables

WARM_UPS = 3


@torch.inference_mode()
def decoder(
    model: HybridLM,
    cache: Cache,
    path: str = "auto",
) -> Callable[[Tensor], Tensor]:
    """A function from token [B, 1] to logits [B, 1, vocab_size]; each call appends to `cache`.

    It runs in inference mode. The values of `path`:
    - "eager" calls the model.
    - "graph" replays a CUDA graph. The next call overwrites the logits.
    - "compiled" runs the step through torch.compile. This takes about a second per layer and needs
      a C++ compiler.
    - "auto" is a graph on CUDA and eager elsewhere.

    Raises ValueError for a path that the device does not support.
    """
    path = resolve(path, model.embed.weight.device.type)

    def eager(token: Tensor) -> Tensor:
        logits: Tensor = model(token, cache)
        return logits

    if path == "eager":
        return torch.inference_mode()(eager)
    make = _captured if path == "graph" else _compiled
    static = StaticStep(model, cache, make)
    return torch.inference_mode()(static.__call__)


def resolve(path: str, device_type: str) -> str:
    """The path that "auto" stands for on a device, or `path` itself.

    Raises ValueError for an unknown path, or one that the device does not support.
    """
    if path not in ("auto", "eager", "graph", "compiled"):
        raise ValueError(f"decode: {path!r} - must be auto, eager, graph or compiled")
    if path == "auto":
        return "graph" if device_type == "cuda" else "eager"
    if path == "graph" and device_type != "cuda":
        raise ValueError(f"decode: graph - CUDA graphs need a CUDA device, this is {device_type}")
    return path


class StaticStep:
    """One decode step over tensors that stay in place."""

    def __init__(
        self,
        model: HybridLM,
        cache: Cache,
        make: Callable[["StaticStep"], Callable[[], Tensor]],
    ) -> None:
        self.model = model
        self.cache = cache
        # A graph reads the rotary tables at fixed addresses, so keep them as long as the graph.
        n_positions = cache.capacity + model.spec.meta_tokens
        self.tables = _rotary_tables(model, n_positions)
        device = model.embed.weight.device
        any_tensor = next(cache.tensors())
        batch_size = any_tensor.shape[0]
        self.token = torch.zeros(
            batch_size,
            1,
            dtype=torch.long,
            device=device,
        )
        self.position = torch.zeros((), dtype=torch.long, device=device)
        self.run = make(self)

    def __call__(self, token: Tensor) -> Tensor:
        self.cache.room_for(1)
        self.token.copy_(token)
        self.position.fill_(self.cache.length)
        logits = self.run()
        self.cache.length += 1
        return logits

    def step(self) -> Tensor:
        """The logits after `token` at `position`, from the present values of both."""
        return self.model.continue_from(
            self.token,
            self.cache,
            self.position,
        )

    def warm_up(self) -> None:
        """Run a few steps so that kernels compile and libraries choose their algorithms.

        The steps repeat the next position, whose slot is overwritten later anyway. The recurrent
        states are restored afterwards.
        """
        self.cache.room_for(1)
        self.position.fill_(self.cache.length)
        states = list(self.cache.recurrent())
        before = [state.clone() for state in states]
        for _ in range(WARM_UPS):
            self.step()
        for state, old in zip(states, before, strict=True):
            state.copy_(old)


def _rotary_tables(model: HybridLM, n_positions: int) -> list[Tables]:
    """The tables of all layers with RoPE, for at least `n_positions` positions."""
    tables = []
    for module in model.modules():
        rope = getattr(module, "rope", None)
        if isinstance(rope, Rope):
            tables.append(rope.reserve(n_positions, model.embed.weight))
    return tables


def _compiled(static: StaticStep) -> Callable[[], Tensor]:
    static.warm_up()
    run: Callable[[], Tensor] = torch.compile(
        static.step,
        dynamic=False,
        fullgraph=True,
    )
    return run


def _captured(static: StaticStep) -> Callable[[], Tensor]:
    return captured(static.step, static.warm_up, static.token.device)


Result = TypeVar("Result")


@torch.inference_mode()
def captured(
    work: Callable[[], Result],
    warm_up: Callable[[], object],
    device: torch.device,
) -> Callable[[], Result]:
    """`work` as a CUDA graph on `device`, which need not be the current device.

    Each call of the returned function does the work again and returns the same tensors, which it
    overwrites. `warm_up` runs before the capture, because some things happen only in a first call
    and cannot be captured: compiling kernels, loading libraries, choosing algorithms.

    The capture uses a new stream. torch's default capture stream belongs to the device of the
    process's first capture. On another device it would capture an empty graph.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        side = torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            warm_up()
        stream.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            result = work()

    def replay() -> Result:
        graph.replay()
        return result

    return replay

"""Decode without overhead: one step whose tensors stay in place, captured as a CUDA graph or
compiled.

Token and position are tensors that every step overwrites, so that nothing in the step depends on
how many tokens came before."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Cache
from hybrid_core.live.modules.model import HybridLM

WARM_UPS = 3


@torch.inference_mode()
def decoder(model: HybridLM, cache: Cache, path: str = "auto") -> Callable[[Tensor], Tensor]:
    """token [B, 1] -> logits [B, 1, vocab_size], each call one token further in `cache`. Nothing is
    kept for a backward pass.

    `path`: "eager" calls the model; "graph" replays a CUDA graph; "compiled" runs what
    torch.compile makes of the step, which takes about a second per layer and a C++ compiler; "auto"
    is a graph on CUDA and eager elsewhere. The logits of a graph are overwritten by the next call.
    Raises ValueError for a path that the device does not have."""
    path = resolve(path, model.embed.weight.device.type)

    def eager(token: Tensor) -> Tensor:
        logits: Tensor = model(token, cache)
        return logits

    step = (
        eager
        if path == "eager"
        else StaticStep(model, cache, _captured if path == "graph" else _compiled).__call__
    )
    return torch.inference_mode()(step)


def resolve(path: str, device_type: str) -> str:
    """The path that "auto" stands for on a device, or `path` itself where the device has it. Raises
    ValueError."""
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
        self, model: HybridLM, cache: Cache, make: Callable[["StaticStep"], Callable[[], Tensor]]
    ) -> None:
        weight = model.embed.weight
        ropes: list[Any] = [
            module.rope for module in model.modules() if getattr(module, "rope", None) is not None
        ]
        self.tables = [
            rope.reserve(cache.capacity + model.spec.meta_tokens, weight) for rope in ropes
        ]  # held for as long as a graph
        self.model, self.cache = model, cache
        self.token = torch.zeros(
            next(cache.tensors()).shape[0], 1, dtype=torch.long, device=weight.device
        )
        self.position = torch.zeros((), dtype=torch.long, device=weight.device)
        self.run = make(self)

    def __call__(self, token: Tensor) -> Tensor:
        self.cache.room_for(1)
        self.token.copy_(token)
        self.position.fill_(self.cache.length)
        logits = self.run()
        self.cache.length += 1
        return logits

    def step(self) -> Tensor:
        """The work of one call, on `token` and `position` as they are."""
        return self.model.continue_from(self.token, self.cache, self.position)

    def warm_up(self) -> None:
        """Steps where the cache stands, which leave in it nothing that a later step reads: kernels
        compile, libraries choose."""
        self.cache.room_for(1)
        self.position.fill_(self.cache.length)
        held = [(tensor, tensor.clone()) for tensor in self.cache.recurrent()]
        for _ in range(WARM_UPS):
            self.step()
        for tensor, before in held:
            tensor.copy_(before)


def _compiled(static: StaticStep) -> Callable[[], Tensor]:
    static.warm_up()
    run: Callable[[], Tensor] = torch.compile(static.step, dynamic=False, fullgraph=True)
    return run


def _captured(static: StaticStep) -> Callable[[], Tensor]:
    return captured(static.step, static.warm_up, static.token.device)


Result = TypeVar("Result")


@torch.inference_mode()
def captured(
    work: Callable[[], Result], warm_up: Callable[[], object], device: torch.device
) -> Callable[[], Result]:
    """`work` as a graph on a CUDA device, whichever is the current one. Each call does the work
    anew and returns the same tensors, overwritten. `warm_up` comes first: what is compiled, loaded
    or chosen at a first call cannot be captured.

    The graph is given a stream made here: the one that torch would take stays on the device of the
    process's first capture, and a graph of another device's work is empty."""
    with torch.cuda.device(device):
        stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
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

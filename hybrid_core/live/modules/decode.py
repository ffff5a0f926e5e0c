"""Decoding without launch overhead: one step, captured as a CUDA graph or compiled.

The tensors of the step stay in place. Token and position are tensors that every step overwrites, so
nothing in the step depends on how many tokens came before.
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
    """A function token [B, 1] -> logits [B, 1, vocab_size]; each call is one token of `cache`.

    Nothing is kept for a backward pass. The values of `path`:
    - "eager" calls the model.
    - "graph" replays a CUDA graph. The next call overwrites the logits.
    - "compiled" runs the step through torch.compile. This takes about a second per layer and needs
      a C++ compiler.
    - "auto" is a graph on CUDA and eager elsewhere.

    Raises ValueError for a path that the device does not have.
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

    Raises ValueError for an unknown path and for one that the device does not have.
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
        weight = model.embed.weight
        # A graph reads the rotary tables where they lie, so they are held as long as the graph.
        n_positions = cache.capacity + model.spec.meta_tokens
        self.tables: list[Tables] = []
        for module in model.modules():
            rope = getattr(module, "rope", None)
            if isinstance(rope, Rope):
                self.tables.append(rope.reserve(n_positions, weight))
        self.model = model
        self.cache = cache
        batch_size = next(cache.tensors()).shape[0]
        self.token = torch.zeros(
            batch_size,
            1,
            dtype=torch.long,
            device=weight.device,
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
        """The work of one call, on the present `token` and `position`."""
        return self.model.continue_from(self.token, self.cache, self.position)

    def warm_up(self) -> None:
        """Run a few steps so that kernels compile and libraries choose their algorithms.

        The steps repeat the next position, so its slot is written again later. The recurrent states
        are restored afterwards.
        """
        self.cache.room_for(1)
        self.position.fill_(self.cache.length)
        held = [(tensor, tensor.clone()) for tensor in self.cache.recurrent()]
        for _ in range(WARM_UPS):
            self.step()
        for tensor, before in held:
            tensor.copy_(before)


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
    """`work` as a graph on a CUDA device, which need not be the current one.

    Each call does the work again and returns the same tensors, overwritten. `warm_up` runs first,
    because what is compiled, loaded or chosen at a first call cannot be captured.

    The graph gets a stream made here. The one that torch would use stays on the device of the
    process's first capture, and a graph of another device's work would be empty.
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

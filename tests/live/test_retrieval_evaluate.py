"""The map: an oracle fills it, a window loses what lies far back, and the cache gives what a whole
forward pass gives."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from hybrid_core.live.modules.model import build
from hybrid_core.live.retrieval import task
from hybrid_core.live.retrieval.evaluate import evaluate, recalled
from hybrid_core.live.retrieval.options import DEPTHS
from tests.designs import design

CPU = torch.device("cpu")


@dataclass
class Tokens:
    """A cache that remembers every token."""

    tokens: Tensor
    length: int = field(default=0)

    def tensors(self) -> Iterator[Tensor]:
        yield self.tokens


class Oracle(nn.Module):
    """Says what came after the latest earlier place of the same token, if that lies within `reach`
    tokens."""

    def __init__(self, reach: int = 10**9) -> None:
        super().__init__()
        self.reach = reach
        self.tokens_read = 0

    def new_cache(self, batch_size: int, capacity: int) -> Tokens:
        return Tokens(torch.full((batch_size, capacity), -1))

    def forward(self, tokens: Tensor, cache: Tokens, last_only: bool = False) -> Tensor:
        self.tokens_read += tokens.numel()
        start = cache.length
        cache.length += tokens.shape[1]
        cache.tokens[:, start : cache.length] = tokens
        logits = torch.zeros(*tokens.shape, task.VOCAB_SIZE)
        for row, seen in enumerate(cache.tokens.tolist()):
            for t in range(tokens.shape[1]):
                here = start + t
                within_reach = range(max(0, here - self.reach), here)
                earlier = [place for place in within_reach if seen[place] == seen[here]]
                if earlier:
                    following = seen[earlier[-1] + 1]
                    logits[row, t, following] = 1
        return logits[:, -1:] if last_only else logits


def accuracies(model: nn.Module, length: int, trials: int = 3) -> list[float]:
    (row,) = evaluate(model, (length,), DEPTHS, trials, 0, CPU, 10_000)
    return [cell.accuracy for cell in row]


def test_an_oracle_recalls_every_needle() -> None:
    assert accuracies(Oracle(), 128) == [1.0] * len(DEPTHS)


def test_a_short_memory_loses_what_lies_far_back() -> None:
    # At length 128 the needle at depth d begins 128 - 120 d tokens before the mark, its key one
    # more before the queried key.
    assert accuracies(Oracle(reach=70), 128) == [
        float(128 - round(120 * d) + 1 <= 70) for d in DEPTHS
    ]


def test_a_row_costs_one_haystack_and_eleven_queries_not_eleven_haystacks() -> None:
    oracle = Oracle()
    accuracies(oracle, 256, trials=2)
    assert oracle.tokens_read == 2 * (256 + len(DEPTHS) * (task.QUERY_LEN - 1))


@pytest.mark.parametrize("pattern", ["A", "S", "M", "H", "D", "N", "AMSH"])
def test_reading_on_from_the_kept_cache_is_the_whole_forward_pass(pattern: str) -> None:
    spec = design(pattern, vocab_size=task.VOCAB_SIZE)
    model = build(spec, dtype=torch.float64, seed=3)
    made = task.contexts(
        2,
        100,
        len(DEPTHS),
        torch.Generator().manual_seed(1),
        task.grid(100, DEPTHS),
    )
    answers = recalled(model, made, CPU)
    queries = task.queries(made.needles)
    for n in range(len(DEPTHS)):
        whole = torch.cat([made.haystack, queries[:, n]], 1)
        expected = model(whole).argmax(-1)[:, -task.VALUE_LEN - 1 : -1]
        assert torch.equal(answers[:, n], expected)


def test_trials_do_not_depend_on_how_they_are_batched() -> None:
    oracle = Oracle(reach=70)
    one_by_one = list(evaluate(oracle, (128, 160), DEPTHS, 4, 5, CPU, max_tokens=128))
    together = list(evaluate(oracle, (128, 160), DEPTHS, 4, 5, CPU, max_tokens=100_000))
    lengths = [[cell.context_len for cell in row] for row in one_by_one]
    assert lengths == [[128] * 11, [160] * 11]
    assert one_by_one == together


def test_a_row_says_how_much_haystacks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_other(
        model: nn.Module,
        contexts: task.Contexts,
        device: torch.device,
    ) -> Tensor:
        """Right for every other haystack, and token 0, which is no symbol, for the others."""
        right = torch.arange(4) % 2
        return contexts.needles[..., 1:] * right[:, None, None]

    monkeypatch.setattr(sys.modules[evaluate.__module__], "recalled", every_other)
    (row,) = evaluate(Oracle(), (128,), DEPTHS, 4, 0, CPU, 10_000)
    assert [cell.correct for cell in row] == [2] * 11
    # 0, 11, 0 and 11 of eleven needles: 4 * 5.5^2 / 3.
    for cell in row:
        assert cell.haystack_variance == pytest.approx(40.333, abs=1e-3)

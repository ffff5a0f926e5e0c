"""Generation from a prompt, token by token, over an explicit cache."""

import torch
from torch import Tensor

from hybrid_core.live.modules.cache import Cache
from hybrid_core.live.modules.model import HybridLM


@torch.inference_mode()
def generate(
    model: HybridLM,
    prompt: Tensor,
    n_tokens: int,
    cache: Cache | None = None,
    temperature: float = 0.0,
) -> Tensor:
    """prompt [B, T] -> the `n_tokens` that follow [B, n_tokens].

    Greedy unless `temperature` is positive. With a `cache`, the prompt continues the text that the
    cache has seen. Raises ValueError if the cache is too small.
    """
    if cache is None:
        batch_size, prompt_len = prompt.shape
        cache = model.new_cache(batch_size, prompt_len + n_tokens)
    logits = prefilled(model, prompt, cache)
    out = []
    for step in range(n_tokens):
        token = _pick(logits[:, -1], temperature)
        out.append(token)
        if step + 1 < n_tokens:
            logits = model(token, cache)
    return torch.cat(out, 1)


def prefilled(
    model: HybridLM,
    tokens: Tensor,
    cache: Cache,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Read tokens [B, T] into `cache`; return the last position's logits [B, 1, vocab_size].

    Reads all tokens at once, or `chunk_tokens` of each sequence at a time. The cache ends up the
    same.
    """
    piece_len = chunk_tokens or tokens.shape[1]
    *before, last = tokens.split(piece_len, 1)
    for piece in before:
        model(piece, cache, last_only=True)
    logits: Tensor = model(last, cache, last_only=True)
    return logits


def _pick(logits: Tensor, temperature: float) -> Tensor:
    """The next token [B, 1] from logits [B, vocab_size]."""
    if temperature <= 0:
        return logits.argmax(-1, keepdim=True)
    scaled = logits.float() / temperature
    probabilities = torch.softmax(scaled, -1)
    return torch.multinomial(probabilities, 1)

"""A checkpoint small enough to be made in a test."""

import re
from pathlib import Path

import torch

from hybrid_core.live.retrieval.prompts import CITIES, NEEDLE, NOISE, PROMPT


def save_tiny_llama(path: Path) -> Path:
    """A tiny untrained Llama with a tokenizer of words and digits, in Hugging Face format; returns
    `path`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = Regex(r"\d| ?[^\s\d]+|\s")
    sample = "\n".join([NOISE, NEEDLE, *PROMPT, *(f"The {city}" for city in CITIES), "0123456789"])
    words = dict.fromkeys(re.findall(r"\d| ?[^\s\d]+|\s", sample))
    vocab = {word: i for i, word in enumerate(["<unk>", "<s>", *words])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(pieces, "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="<s>", pad_token="<s>"
    )
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path

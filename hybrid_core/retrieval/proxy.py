"""The proxy: the same design, small enough to train in minutes. One rule for every design, and no torch.

- **Widths** shrink by d_model / the design's d_model: d_ssm, d_ff, experts, the widths of the intra-hybrid block's branches. Heads become
  fewer, not narrower than HEAD_DIM, in the same ratio of query to key/value heads.
- **Lengths** shrink by trained_len / 8192, the length that the paper's models are trained at: window, sinks, RoPE's theta (a wavelength,
  counted in tokens) and the original length of its scaling.
- **State**: d_state shrinks by the square root of that. d_state vectors are what a layer can keep of a context, which shrinks, but also of
  a needle, which does not: a state of 128 for 8,192 tokens becomes one of 32 for 512.
- **Layers**: the same pattern with fewer layers, never fewer than MIN_LAYERS: the smallest depth at which the share of each kind stays
  within SHARE_TOLERANCE. Ratio and placement compile anew at that depth; indices and patterns are thinned, order and ends kept.
- Position encoding, kinds of mixers, the axes of fusion, experts and top-k stay as they are.
"""

from collections import Counter
from math import sqrt
from typing import Any

from hybrid_core.spec import AnyFfn, ArchSpec, AttentionSection, IntraSection, LayersSection, Mamba1Section, Mamba2Section, MoE, SwaSection

PAPER_LEN = 8192
HEAD_DIM = 16
SSM_HEAD_DIM = 32
MIN_LAYERS = 6
SHARE_TOLERANCE = 0.03
CHUNK = 64


def proxy(spec: ArchSpec, d_model: int, trained_len: int, vocab_size: int) -> ArchSpec:
    """The proxy of `spec`, `d_model` wide, for contexts of `trained_len` tokens."""
    width, length = d_model / spec.d_model, trained_len / PAPER_LEN
    n_layers, layers = thinned(spec)
    changes: dict[str, Any] = {
        "name": f"{spec.name[:80]} (proxy)",
        "vocab_size": vocab_size,
        "tie_embeddings": True,
        "d_model": d_model,
        "n_layers": n_layers,
        "layers": layers,
        "attention": _attention(spec.attention, d_model, length, paired="D" in spec.pattern),
        "swa": _swa(spec.swa, length),
        "ssm": _ssm(spec.ssm, width, length),
        "intra": _intra(spec.intra, d_model, width),
        "ffn": _ffn(spec.ffn, width),
    }
    return spec.replace(**changes)


def thinned(spec: ArchSpec) -> tuple[int, LayersSection]:
    """The smallest depth at which every kind keeps its share, and the layers at that depth."""
    for n_layers in range(min(MIN_LAYERS, spec.n_layers), spec.n_layers):
        layers = spec.layers if spec.layers.indices is None and spec.layers.pattern is None else None
        pattern = layers.resolve(n_layers) if layers else thin(spec.pattern, n_layers)
        if _keeps_shares(spec.pattern, pattern):
            return n_layers, layers or LayersSection(pattern=pattern)
    return spec.n_layers, spec.layers


def _keeps_shares(pattern: str, small: str) -> bool:
    shares, found = Counter(pattern), Counter(small)
    return all(abs(found[k] / len(small) - n / len(pattern)) <= SHARE_TOLERANCE for k, n in shares.items())


def thin(pattern: str, n_layers: int) -> str:
    """`pattern` at a smaller depth: each rarer kind keeps its share (one layer at least), spread over the places that it had."""
    common, *rare = [kind for kind, _ in Counter(pattern).most_common()]
    small = [""] * n_layers
    for kind in reversed(rare):  # the rarest first: its places matter most
        places = [i for i, letter in enumerate(pattern) if letter == kind]
        kept = max(1, round(len(places) * n_layers / len(pattern)))
        for i in range(kept):
            here = _quantile(places, i, kept, len(pattern) - 1) / max(1, len(pattern) - 1) * (n_layers - 1)
            free = [slot for slot, letter in enumerate(small) if not letter]
            if free:
                small[min(free, key=lambda slot: abs(slot - here))] = kind
    return "".join(letter or common for letter in small)


def _quantile(places: list[int], i: int, n: int, last: int) -> float:
    """The i-th of n places spread evenly over `places`, both ends included; a single one is at the stack's end that the design
    places a layer of this kind at, or else in the middle."""
    share = i / (n - 1) if n > 1 else 0.5 + 0.5 * ((places[-1] == last) - (places[0] == 0))
    at = (len(places) - 1) * share
    low = int(at)
    return places[low] + (at - low) * (places[min(low + 1, len(places) - 1)] - places[low])


def _scaled(value: float, factor: float, multiple: int = 1, least: int = 1) -> int:
    """`value` times `factor`, to the nearest multiple."""
    return max(least, multiple, round(value * factor / multiple) * multiple)


def _heads(n_heads: int, n_kv_heads: int, width: int, paired: bool = False) -> dict[str, int]:
    """Heads of HEAD_DIM for a total width, with the design's ratio of query to key/value heads as far as it divides."""
    heads = max(2, width // HEAD_DIM // 2 * 2)
    fits = [n for n in range(1, heads + 1) if heads % n == 0 and (not paired or n % 2 == 0)]
    return {"n_heads": heads, "n_kv_heads": min(fits, key=lambda n: abs(n - heads * n_kv_heads / n_heads))}


def _attention(section: AttentionSection | None, d_model: int, length: float, paired: bool) -> dict[str, Any] | None:
    if section is None:
        return None
    data = section.model_dump(exclude_none=True)
    data |= _heads(section.n_heads, section.n_kv_heads, d_model, paired)
    data |= {"head_dim": HEAD_DIM, "rope_theta": max(2.0, section.rope_theta * length)}
    if section.rope_scaling is not None:
        original = _scaled(section.rope_scaling.original_context_len, length)
        data["rope_scaling"] = data["rope_scaling"] | {"original_context_len": original}
    return data


def _swa(section: SwaSection | None, length: float) -> dict[str, Any] | None:
    if section is None:
        return None
    window, sink = _scaled(section.window, length), _scaled(section.sink, length) if section.sink else 0
    return {"window": window, "sink": sink, "rope_theta": max(2.0, section.rope_theta * length)}


def _ssm(section: Mamba2Section | Mamba1Section | None, width: float, length: float) -> dict[str, Any] | None:
    if section is None:
        return None
    data = section.model_dump(exclude_none=True)
    data["d_state"] = _scaled(section.d_state, sqrt(length))
    if isinstance(section, Mamba1Section):
        return data | {"d_ssm": _scaled(section.d_ssm, width, 16), "dt_rank": _scaled(section.dt_rank, width, 1, 4)}
    d_ssm = _scaled(section.d_ssm, width, 2 * SSM_HEAD_DIM)
    groups = section.n_groups if (d_ssm // SSM_HEAD_DIM) % section.n_groups == 0 else 1
    return data | {"d_ssm": d_ssm, "head_dim": SSM_HEAD_DIM, "n_groups": groups, "chunk_size": CHUNK}


def _intra(section: IntraSection | None, d_model: int, width: float) -> dict[str, Any] | None:
    """Values of all heads together stay as wide as the model, queries and d_ssm in proportion to it."""
    if section is None:
        return None
    data = section.model_dump(exclude_none=True)
    values = _scaled(section.n_heads * section.v_head_dim, width, 2 * HEAD_DIM)
    heads = _heads(section.n_heads, section.n_kv_heads, values // 2)  # values are wider than queries: half as many heads, each wider
    v_head_dim = values // heads["n_heads"]
    qk = _scaled(section.qk_head_dim * section.n_heads, width / heads["n_heads"], 4, 8)
    tied = section.d_ssm == section.n_heads * section.v_head_dim
    d_ssm = values if tied else _scaled(section.d_ssm, width, SSM_HEAD_DIM)
    return data | heads | {"qk_head_dim": qk, "v_head_dim": v_head_dim, "d_ssm": d_ssm, "ssm_head_dim": SSM_HEAD_DIM}


def _ffn(section: AnyFfn | None, width: float) -> dict[str, Any] | None:
    if section is None:
        return None
    key = "d_expert" if isinstance(section, MoE) else "d_ff"
    return section.model_dump() | {key: _scaled(getattr(section, key), width, 8)}

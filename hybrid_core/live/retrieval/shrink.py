"""How one layer becomes small: a function for every kind of mixer and feed-forward, in one table by
type. The rules: proxy.py.

A number of channels shrinks with the width of the model, a number of tokens with the length of its
contexts, a state with the square root of that length. What is neither stays: kinds, axes of fusion,
ratios of heads, numbers of experts, widths of convolutions."""

from collections.abc import Callable
from math import gcd, sqrt
from typing import Any, NamedTuple

from hybrid_core.design.stack import Layer
from hybrid_core.ffns.mlp import Mlp
from hybrid_core.ffns.moe import MoE
from hybrid_core.ffns.swiglu import SwiGLU
from hybrid_core.mixers.attention import AttentionMixer, RopeScaling
from hybrid_core.mixers.declared import DeclaredMixer
from hybrid_core.mixers.diff_attention import DiffAttentionMixer
from hybrid_core.mixers.diff_mamba2 import DiffMamba2Mixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.gated_memory import GatedMemoryMixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.mla import LatentAttentionMixer
from hybrid_core.mixers.none import NoMixer
from hybrid_core.mixers.rg_lru import RgLruMixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.mixers.short_conv import ShortConvMixer
from hybrid_core.mixers.side_by_side import SideBySideMixer
from hybrid_core.mixers.swa import SwaMixer
from hybrid_core.validation import Frozen

HEAD_DIM = 16
SSM_HEAD_DIM = 32
CHUNK = 64
LEAST_THETA = 2.0


class Factors(NamedTuple):
    """The proxy's size over the design's: of its width (d_model), and of the contexts that it is
    trained on."""

    width: float
    length: float

    @property
    def state(self) -> float:
        """Of what a state keeps: a context, which shrinks with the length, and needles, which do
        not."""
        return sqrt(self.length)


def small_layer(layer: Layer, factors: Factors) -> Layer:
    """The layer, small: its letter stays."""
    ffn = None if layer.ffn is None else small(layer.ffn, factors)
    return Layer(layer.letter, small(layer.mixer, factors), ffn)


def small(part: Any, factors: Factors, **fixed: int) -> Any:
    """A mixer or a feed-forward, small. `fixed`: sizes that what stands beside it decides, for the
    kinds that take them."""
    return SHRINK[type(part)](part, factors, **fixed)


def scaled(value: float, factor: float, multiple: int = 1, least: int = 1) -> int:
    """`value` times `factor`, to the nearest multiple."""
    return max(least, multiple, round(value * factor / multiple) * multiple)


def _changed(part: Frozen, **changes: Any) -> Any:
    """A copy with other values, validated again. Raises SpecError with one line."""
    fields = {name: getattr(part, name) for name in type(part).model_fields}
    return type(part).make(**(fields | changes))


# ---------------------------------------------------------------- attention


def _attention(mixer: AttentionMixer, factors: Factors, **changes: Any) -> Any:
    """Fewer heads of about HEAD_DIM, together as wide as the design's in proportion, and values as
    much wider than queries."""
    if (
        mixer.v_head_dim > mixer.head_dim
    ):  # half as many heads as there would be, with values twice HEAD_DIM
        values = scaled(mixer.n_heads * mixer.v_head_dim, factors.width, 2 * HEAD_DIM)
        n_heads = _n_heads(values // 2)
    else:
        n_heads = _n_heads(scaled(mixer.n_heads * mixer.head_dim, factors.width))
    per_head = factors.width * mixer.n_heads / n_heads
    head_dim = scaled(mixer.head_dim, per_head, 4, 8)
    v_head_dim = (
        head_dim if mixer.v_head_dim == mixer.head_dim else scaled(mixer.v_head_dim, per_head, 8, 8)
    )
    paired = isinstance(mixer, DiffAttentionMixer)
    changes |= {
        "n_heads": n_heads,
        "n_kv_heads": _kv_heads(mixer, n_heads, paired),
        "head_dim": head_dim,
        "v_head_dim": v_head_dim,
    }
    changes |= {
        "rope_theta": max(LEAST_THETA, mixer.rope_theta * factors.length)
    }  # a wavelength, counted in tokens
    changes |= {
        "rope_fraction": _rope_fraction(mixer, head_dim),
        "rope_scaling": _rope_scaling(mixer.rope_scaling, factors),
    }
    if mixer.d_input is not None:
        changes["d_input"] = scaled(mixer.d_input, factors.width)
    if mixer.softmax_scale is not None:  # as head_dim^-0.5, which it stands for, would change
        changes["softmax_scale"] = mixer.softmax_scale * sqrt(mixer.head_dim / head_dim)
    return _changed(mixer, **changes)


def _n_heads(width: int) -> int:
    """An even number of heads of HEAD_DIM for a width of all together."""
    return max(2, width // HEAD_DIM // 2 * 2)


def _kv_heads(mixer: AttentionMixer, n_heads: int, paired: bool) -> int:
    """Key and value heads in the design's ratio to query heads, as far as that divides; an even
    number where heads come in pairs."""
    step = 2 if paired else 1
    fits = [n for n in range(step, n_heads + 1, step) if n_heads % n == 0]
    wanted = n_heads * mixer.n_kv_heads / mixer.n_heads
    return min(fits, key=lambda n: abs(n - wanted))


def _rope_fraction(mixer: AttentionMixer, head_dim: int) -> float:
    """The share of a head that RoPE turns, so that it turns whole pairs of channels."""
    turned = max(2, 2 * round(head_dim * mixer.rope_fraction / 2))
    return turned / head_dim


def _rope_scaling(scaling: RopeScaling | None, factors: Factors) -> RopeScaling | None:
    if scaling is None:
        return None
    changed: RopeScaling = _changed(
        scaling, original_context_len=scaled(scaling.original_context_len, factors.length)
    )
    return changed


def _swa(mixer: SwaMixer, factors: Factors) -> Any:
    sink = scaled(mixer.sink, factors.length) if mixer.sink else 0
    return _attention(mixer, factors, window=scaled(mixer.window, factors.length), sink=sink)


def _diff_attention(mixer: DiffAttentionMixer, factors: Factors) -> Any:
    window = None if mixer.window is None else scaled(mixer.window, factors.length)
    return _attention(mixer, factors, window=window)


def _latent_attention(mixer: LatentAttentionMixer, factors: Factors) -> Any:
    """Fewer heads, each about HEAD_DIM wide; the ranks are widths."""
    width = scaled(mixer.n_heads * (mixer.nope_head_dim + mixer.rope_head_dim), factors.width)
    n_heads = _n_heads(width)
    per_head = factors.width * mixer.n_heads / n_heads
    return _changed(
        mixer,
        n_heads=n_heads,
        nope_head_dim=scaled(mixer.nope_head_dim, per_head, 2, 2),
        rope_head_dim=scaled(mixer.rope_head_dim, per_head, 2, 2),
        v_head_dim=scaled(mixer.v_head_dim, per_head, 2, 2),
        kv_rank=scaled(mixer.kv_rank, factors.width),
        q_rank=None if mixer.q_rank is None else scaled(mixer.q_rank, factors.width),
    )


# ---------------------------------------------------------------- state-space mixers


def _mamba2(mixer: Mamba2Mixer, factors: Factors, d_ssm: int | None = None) -> Any:
    """Heads of SSM_HEAD_DIM, or of the most below it that divides a `d_ssm` decided elsewhere."""
    paired = isinstance(
        mixer, DiffMamba2Mixer
    )  # two branches, each with heads and groups of its own
    least_groups = 2 if paired else 1
    width = d_ssm or scaled(mixer.d_ssm, factors.width, SSM_HEAD_DIM * least_groups)
    head_dim = gcd(width, SSM_HEAD_DIM)
    groups = mixer.n_groups if width // head_dim % mixer.n_groups == 0 else least_groups
    d_state = scaled(mixer.d_state, factors.state)
    return _changed(
        mixer, d_ssm=width, head_dim=head_dim, d_state=d_state, n_groups=groups, chunk_size=CHUNK
    )


def _mamba1(mixer: Mamba1Mixer, factors: Factors, d_ssm: int | None = None) -> Any:
    width = d_ssm or scaled(mixer.d_ssm, factors.width, 16)
    dt_rank = scaled(mixer.dt_rank, factors.width, 1, 4)
    n_heads = gcd(mixer.n_heads, width)
    return _changed(
        mixer,
        d_ssm=width,
        d_state=scaled(mixer.d_state, factors.state),
        dt_rank=dt_rank,
        n_heads=n_heads,
    )


# ---------------------------------------------------------------- mixers made of mixers


def _intra(mixer: IntraMixer, factors: Factors) -> Any:
    """Both branches; an SSM as wide as the values of all heads stays so."""
    attention = small(mixer.attention, factors)
    tied = mixer.ssm.d_ssm == mixer.d_attention
    fixed = {"d_ssm": attention.n_heads * attention.v_head_dim} if tied else {}
    return _changed(mixer, attention=attention, ssm=small(mixer.ssm, factors, **fixed))


def _shared_block(mixer: SharedBlockMixer, factors: Factors) -> Any:
    adapter_rank = scaled(mixer.adapter_rank, factors.width) if mixer.adapter_rank else 0
    parts = {key: small(getattr(mixer, key), factors) for key in ("attention", "ffn", "ssm")}
    return _changed(mixer, adapter_rank=adapter_rank, **parts)


def _side_by_side(mixer: SideBySideMixer, factors: Factors) -> Any:
    return _changed(mixer, branches=tuple(small(branch, factors) for branch in mixer.branches))


# ---------------------------------------------------------------- recurrences with another state


def _gated_deltanet(mixer: GatedDeltaNetMixer, factors: Factors) -> Any:
    """The key's channels are the state's vectors; heads are as many as keep the width of all keys,
    values in proportion."""
    k_head_dim = scaled(mixer.k_head_dim, factors.state, 4, 8)
    n_k_heads = scaled(mixer.n_k_heads * mixer.k_head_dim, factors.width / k_head_dim)
    n_v_heads = n_k_heads * max(1, round(mixer.n_v_heads / mixer.n_k_heads))
    v_head_dim = scaled(mixer.n_v_heads * mixer.v_head_dim, factors.width / n_v_heads, 4, 8)
    return _changed(
        mixer,
        n_k_heads=n_k_heads,
        n_v_heads=n_v_heads,
        k_head_dim=k_head_dim,
        v_head_dim=v_head_dim,
    )


def _kda(mixer: KimiDeltaMixer, factors: Factors) -> Any:
    """As Gated DeltaNet, keys and values of one width."""
    head_dim = scaled(mixer.head_dim, factors.state, 4, 8)
    return _changed(
        mixer,
        head_dim=head_dim,
        n_heads=scaled(mixer.n_heads * mixer.head_dim, factors.width / head_dim),
    )


def _rg_lru(mixer: RgLruMixer, factors: Factors) -> Any:
    width = scaled(mixer.width, factors.width, HEAD_DIM)
    return _changed(mixer, width=width, n_blocks=gcd(mixer.n_blocks, width))


def _gated_memory(mixer: GatedMemoryMixer, factors: Factors) -> Any:
    return _changed(
        mixer, d_memory=scaled(mixer.d_memory, factors.width, 16)
    )  # as the scan of Mamba-1 that it reads


def _declared(mixer: DeclaredMixer, factors: Factors) -> Any:
    """Sizes alone are known, so each shrinks as such a size usually does: a matrix by both of its
    widths."""
    by_factor = {
        factors.width**2: ("matrix_params",),
        factors.width: ("other_params", "conv_channels", "kv_per_token", "flops_per_pair"),
        factors.width * factors.state: ("state", "flops_per_token"),
    }
    changes = {}
    for factor, keys in by_factor.items():
        for key in keys:
            value = getattr(mixer, key)
            changes[key] = scaled(value, factor) if value else 0
    return _changed(mixer, **changes)


def _as_it_is(part: Any, factors: Factors) -> Any:
    """Nothing in it is a width or a length."""
    return part


# ---------------------------------------------------------------- feed-forwards


def _dense(ffn: SwiGLU | Mlp, factors: Factors) -> Any:
    return _changed(ffn, d_ff=scaled(ffn.d_ff, factors.width, 8))


def _moe(ffn: MoE, factors: Factors) -> Any:
    """Narrower experts, as many of them."""
    changes = {}
    for key in ("d_expert", "d_shared", "d_latent"):
        width = getattr(ffn, key)
        changes[key] = width if width is None else scaled(width, factors.width, 8)
    return _changed(ffn, **changes)


SHRINK: dict[type[Any], Callable[..., Any]] = {
    AttentionMixer: _attention,
    SwaMixer: _swa,
    DiffAttentionMixer: _diff_attention,
    LatentAttentionMixer: _latent_attention,
    Mamba2Mixer: _mamba2,
    DiffMamba2Mixer: _mamba2,
    Mamba1Mixer: _mamba1,
    IntraMixer: _intra,
    SharedBlockMixer: _shared_block,
    SideBySideMixer: _side_by_side,
    GatedDeltaNetMixer: _gated_deltanet,
    KimiDeltaMixer: _kda,
    RgLruMixer: _rg_lru,
    ShortConvMixer: _as_it_is,
    GatedMemoryMixer: _gated_memory,
    DeclaredMixer: _declared,
    NoMixer: _as_it_is,
    SwiGLU: _dense,
    Mlp: _dense,
    MoE: _moe,
}

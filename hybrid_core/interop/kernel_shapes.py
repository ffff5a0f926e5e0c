"""Shapes that the kernels of causal-conv1d, mamba_ssm, fla and flash-attn do not support, but ours
do.

We build and profile a design with such a shape, but a framework that runs those kernels fails on
it. The rules, with their places in each library's source:

- causal-conv1d at 0d2252d, csrc/causal_conv1d.cpp: the width is 2 to 4. The number of channels is a
  multiple of 8. So are the strides in the layout that the models use (channels last). mamba_ssm 2.3
  copies the input of its fused training path to fix the stride (ssd_combined.py, `ensure_stride`);
  its prefill and transformers do not (state-spaces/mamba#643, #351, #345).
- mamba_ssm at e9594ce, csrc/selective_scan/selective_scan.cpp: a state of at most 256.
  ops/triton/layernorm_gated.py: at most 64 KiB per group.
- fla 0.6.0, fla/ops/common/chunk_delta_h.py and fla/ops/kda/chunk.py: keys of at most 256 channels.
- flash-attn at 0251105, csrc/flash_attn/flash_api.cpp: heads of at most 256 channels (other widths
  are padded to multiples of 8).

mamba_ssm's Mamba-2 kernels do not limit the width of heads and states, because they process them in
blocks (ops/triton/ssd_chunk_scan.py)."""

from collections.abc import Callable, Iterator
from typing import Any

from hybrid_core.design.spec import ArchSpec
from hybrid_core.mixers.attention import AttentionMixer
from hybrid_core.mixers.base import Mixer
from hybrid_core.mixers.gated_deltanet import GatedDeltaNetMixer
from hybrid_core.mixers.intra import IntraMixer
from hybrid_core.mixers.kda import KimiDeltaMixer
from hybrid_core.mixers.mamba1 import Mamba1Mixer
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.mixers.shared_block import SharedBlockMixer
from hybrid_core.mixers.short_conv import ShortConvMixer
from hybrid_core.mixers.side_by_side import SideBySideMixer
from hybrid_core.mixers.swa import SwaMixer

FORMATS = ("hf", "megatron", "fla")  # exports whose framework runs these kernels

STRIDE = 8  # causal-conv1d
CONV_WIDTHS = (2, 3, 4)
MAX_MAMBA1_STATE = 256
MAX_GROUP_WIDTH = 65_536 // 2  # mamba_ssm's gated norm, in two-byte elements
MAX_KEY_WIDTH = 256  # fla's delta rules
MAX_HEAD_WIDTH = 256  # flash-attn


def kernel_refusals(spec: ArchSpec) -> list[str]:
    """One line for each shape that a library's kernel does not support: `where: value - rule`."""
    layers: dict[Mixer, list[int]] = {}
    for number, layer in enumerate(spec.stack, start=1):
        layers.setdefault(layer.mixer, []).append(number)
    lines: dict[str, None] = {}  # each once, in order
    for mixer, numbers in layers.items():
        for line in _of_mixer(mixer, spec.d_model):
            lines[f"{_where(numbers)}, {line}"] = None
    return list(lines)


def _where(numbers: list[int]) -> str:
    first = f"layer {numbers[0]}"
    return first if len(numbers) == 1 else f"{first} and {len(numbers) - 1} more"


def _of_mixer(mixer: Mixer, d_model: int) -> Iterator[str]:
    rules = RULES.get(type(mixer))
    if rules is not None:
        for line in rules(mixer):
            yield f"{mixer.kind}.{line}"
    if isinstance(mixer, ShortConvMixer):  # its convolution is as wide as the residual stream
        for line in _channels(d_model, "d_model"):
            yield f"{mixer.kind}.{line}"
    for part in _inside(mixer):
        yield from _of_mixer(part, d_model)


def _inside(mixer: Mixer) -> tuple[Mixer, ...]:
    """The mixers inside a mixer, if a library runs them with its usual kernels. Among intra-hybrid
    blocks, this is only the case for Falcon-H1's."""
    if isinstance(mixer, SideBySideMixer):
        return mixer.branches
    if isinstance(mixer, SharedBlockMixer):
        return (mixer.attention, mixer.ssm)
    if isinstance(mixer, IntraMixer) and _is_falcon_h1(mixer):
        return (mixer.attention, mixer.ssm)
    return ()


def _is_falcon_h1(mixer: IntraMixer) -> bool:
    axes = (
        mixer.norm,
        mixer.scalar,
        mixer.fusion,
        mixer.value,
        mixer.out,
    )
    return axes == ("none", "none", "add", "separate", "separate")


# ---------------------------------------------------------------- the rules, by type of mixer


def _mamba2(s: Mamba2Mixer) -> Iterator[str]:
    yield from _conv_width(s.d_conv)
    yield from _channels(s.d_xbc, "d_ssm + 2 * n_groups * d_state")
    width = s.d_ssm + s.d_xbc + s.n_heads
    if width % STRIDE:
        sizes = "2 * d_ssm + 2 * n_groups * d_state + n_heads"
        rule = f"causal-conv1d needs strides that are multiples of {STRIDE}"
        yield f"in_proj: {width} wide ({sizes}) - {rule}"
    group = s.d_ssm // s.n_groups
    if s.gated_norm and group > MAX_GROUP_WIDTH:
        rule = f"mamba_ssm's gated norm takes at most {MAX_GROUP_WIDTH} in 16 bits"
        yield f"d_ssm: {group} per group - {rule}"


def _mamba1(s: Mamba1Mixer) -> Iterator[str]:
    yield from _conv_width(s.d_conv)
    yield from _channels(s.d_ssm, "d_ssm")
    if s.d_state > MAX_MAMBA1_STATE:
        yield f"d_state: {s.d_state} - mamba_ssm's selective scan takes at most {MAX_MAMBA1_STATE}"


def _gated_deltanet(s: GatedDeltaNetMixer) -> Iterator[str]:
    yield from _conv_width(s.d_conv)
    queries_and_keys = 2 * s.n_k_heads * s.k_head_dim
    channels = queries_and_keys + s.n_v_heads * s.v_head_dim
    yield from _channels(channels, "queries, keys and values")
    yield from _key_width("k_head_dim", s.k_head_dim)


def _kda(s: KimiDeltaMixer) -> Iterator[str]:
    yield from _conv_width(s.d_conv)
    yield from _key_width("head_dim", s.head_dim)


def _short_conv(s: ShortConvMixer) -> Iterator[str]:
    yield from _conv_width(s.d_conv)


def _attention(s: AttentionMixer) -> Iterator[str]:
    if s.head_dim > MAX_HEAD_WIDTH:
        yield f"head_dim: {s.head_dim} - flash-attn takes at most {MAX_HEAD_WIDTH}"


RULES: dict[type[Mixer], Callable[[Any], Iterator[str]]] = {
    Mamba2Mixer: _mamba2,
    Mamba1Mixer: _mamba1,
    GatedDeltaNetMixer: _gated_deltanet,
    KimiDeltaMixer: _kda,
    ShortConvMixer: _short_conv,
    AttentionMixer: _attention,
    SwaMixer: _attention,
}


def _conv_width(d_conv: int) -> Iterator[str]:
    if d_conv not in CONV_WIDTHS:
        yield f"d_conv: {d_conv} - causal-conv1d takes {', '.join(map(str, CONV_WIDTHS))}"


def _channels(channels: int, what: str) -> Iterator[str]:
    if channels % STRIDE:
        rule = f"causal-conv1d needs a multiple of {STRIDE}"
        yield f"convolution: {channels} channels ({what}) - {rule}"


def _key_width(key: str, width: int) -> Iterator[str]:
    if width > MAX_KEY_WIDTH:
        yield f"{key}: {width} - fla's delta rule takes keys of at most {MAX_KEY_WIDTH}"

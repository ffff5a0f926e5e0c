"""The quantisation methods, one function each: `quantization_config` -> its scheme.

Formats as their writers lay them out: OpenAI's MXFP4, DeepSeek's block FP8, FBGEMM, GPTQ, AWQ,
AutoRound, bitsandbytes, MLX (NVIDIA ModelOpt and compressed-tensors: modelopt.py). GPTQ's order of
columns (four bytes an input channel) is not counted."""

from collections.abc import Callable, Mapping

from hybrid_core.interop.module_names import OUTSIDE
from hybrid_core.interop.quantization.modelopt import compressed, modelopt
from hybrid_core.interop.quantization.module_lists import Modules
from hybrid_core.interop.quantization.scheme import (
    INTEGERS,
    PER_CHANNEL_FP8,
    Config,
    Group,
    LayoutFields,
    Scheme,
    block_fp8,
    flag,
    group_size,
    integer,
    known,
    layout,
    names,
    number,
    refused,
    together,
)


def scheme_of(config: Config) -> Scheme:
    """The scheme of a config, by its method."""
    inside = config.get("quantization")
    if isinstance(inside, Mapping) and "quant_algo" in inside:  # ModelOpt's own file, pasted whole
        config = inside
    method = config.get("quant_method")
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if method is None and "bits" in config:
        method = "mlx"
    found: Scheme = known(method, METHODS, "quant_method")(config)
    return found


def _mxfp4(config: Config) -> Scheme:
    return Scheme([Group(layout(format="mxfp4"))], names(config, "modules_to_not_convert"))


def _fp8(config: Config) -> Scheme:
    """One float32 scale for each matrix, or for each block of it."""
    found = block_fp8(config, "weight_block_size") or layout(format="fp8")
    return Scheme([Group(found)], names(config, "modules_to_not_convert", "ignored_layers"))


def _fbgemm(config: Config) -> Scheme:
    """A float32 scale for each output channel."""
    return Scheme([Group(PER_CHANNEL_FP8)], names(config, "modules_to_not_convert"))


# ---------------------------------------------------------------- GPTQ and AutoRound


def _gptq_layout(config: Config) -> LayoutFields:
    """A 16-bit scale and a zero point of the weights' own bits for each group."""
    bits = number(config, "bits", 4, INTEGERS)
    return integer(bits, group_size(config, 128), 16 + bits)


def _gptq(config: Config) -> Scheme:
    """`dynamic`: expressions of modules. Those behind `-:` are left out; the others have bits and
    groups of their own (GPTQModel)."""
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise refused("dynamic", dynamic, "must be a mapping")
    left_out: list[str] = []
    groups: list[Group] = []
    for expression, own in dynamic.items():
        if expression.startswith("-:"):
            left_out.append(f"re:{expression[2:]}")
        elif isinstance(own, Mapping):
            modules = Modules([f"re:{expression.removeprefix('+:')}"])
            groups.append(Group(_gptq_layout({**config, **own}), modules))
    groups.append(Group(_gptq_layout(config)))
    also = ("head",) if flag(config, "lm_head") else ()
    return Scheme(groups, Modules(left_out), also)


AUTO_ROUND_TYPES = {
    "int": None,
    "mx_fp": "mxfp4",
    "nv_fp": "nvfp4",
    "nv_fp4_with_static_gs": "nvfp4",
}


def _auto_round_layout(config: Config) -> LayoutFields:
    name = known(config.get("data_type") or "int", AUTO_ROUND_TYPES, "data_type")
    return layout(format=name) if name else _gptq_layout(config)


def _auto_round(config: Config) -> Scheme:
    """`extra_config`: modules with bits of their own; 16 and more are left as they are."""
    own = config.get("extra_config") or {}
    if not isinstance(own, Mapping):
        raise refused("extra_config", own, "must be a mapping")
    left_out = []
    changed = {}
    for name, fields in own.items():
        if not isinstance(fields, Mapping):
            continue
        bits = fields.get("bits")
        if isinstance(bits, int) and bits >= 16:
            left_out.append(name)
        else:
            changed[name] = _auto_round_layout({**config, **fields})
    groups = [*together(changed), Group(_auto_round_layout(config))]
    return Scheme(groups, Modules(left_out))


# ---------------------------------------------------------------- AWQ, bitsandbytes, MLX


def _awq(config: Config) -> Scheme:
    bits = number(config, "bits", 4, INTEGERS)
    zero_bits = bits if flag(config, "zero_point", True) else 0
    found = integer(bits, group_size(config, 128), 16 + zero_bits)
    return Scheme([Group(found)], names(config, "modules_to_not_convert"))


def _bitsandbytes(config: Config) -> Scheme:
    """LLM.int8: a float32 scale for each row. Four bits: a float32 scale for 64 elements, or one of
    8 bits where scales are quantised again. Four bits where the file says neither, as vLLM reads
    it."""
    if flag(config, "load_in_8bit") or flag(config, "_load_in_8bit"):
        found = layout(format="int8", rows=1, columns=0, scale_bits=32)
    else:
        scale_bits = 8 if flag(config, "bnb_4bit_use_double_quant") else 32
        found = layout(format="nf4", scale_bits=scale_bits)
    return Scheme(
        [Group(found)],
        names(config, "llm_int8_skip_modules"),
        fused=False,
    )


def _bitsandbytes_8bit(config: Config) -> Scheme:
    return _bitsandbytes({**config, "load_in_8bit": True})


def _mlx(config: Config) -> Scheme:
    """A scale and a bias of 16 bits for each group, in every matrix, routers, embedding and head
    included. A module may have fields of its own, or false where it is left out."""
    left_out = []
    changed = {}
    for name, own in config.items():
        if own is False:
            left_out.append(name)
        elif isinstance(own, Mapping):
            changed[name] = _mlx_layout({**config, **own})
    groups = [*together(changed), Group(_mlx_layout(config))]
    return Scheme(groups, Modules(left_out), also=("router", *OUTSIDE))


MLX_MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


def _mlx_layout(config: Config) -> LayoutFields:
    mode = config.get("mode") or "affine"
    if mode not in MLX_MODES:
        raise refused("mode", mode, f"must be {' or '.join(MLX_MODES)}")
    if mode != "affine":
        return layout(format=mode)
    return integer(number(config, "bits", 4, INTEGERS), group_size(config, 64), 32)


METHODS: dict[str, Callable[[Config], Scheme]] = {
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "modelopt": modelopt,
    "modelopt_fp4": modelopt,
    "compressed-tensors": compressed,
    "gptq": _gptq,
    "gptq_marlin": _gptq,
    "auto-round": _auto_round,
    "auto_round": _auto_round,
    "intel/auto-round": _auto_round,
    "inc": _auto_round,
    "awq": _awq,
    "awq_marlin": _awq,
    "bitsandbytes": _bitsandbytes,
    "bitsandbytes_4bit": _bitsandbytes,
    "bitsandbytes_8bit": _bitsandbytes_8bit,
    "mlx": _mlx,
}

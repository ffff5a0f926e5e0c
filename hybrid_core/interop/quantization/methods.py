"""The quantisation methods, one function each, which turns a `quantization_config` into a scheme.

Layouts follow the writer of each format: OpenAI's MXFP4, DeepSeek's block FP8, FBGEMM, GPTQ, AWQ,
AutoRound, bitsandbytes, MLX. NVIDIA ModelOpt and compressed-tensors are in modelopt.py. GPTQ's
column order (four bytes per input channel) is not counted."""

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
    """The scheme of a `quantization_config`. Raises SpecError with one line."""
    inside = config.get("quantization")
    # the contents of ModelOpt's own file (hf_quant_config.json)
    if isinstance(inside, Mapping) and "quant_algo" in inside:
        config = inside
    method = config.get("quant_method")
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if method is None and "bits" in config:
        method = "mlx"
    read: Callable[[Config], Scheme] = known(method, METHODS, "quant_method")
    return read(config)


def _all_but_unconverted(config: Config, found: LayoutFields) -> Scheme:
    """One layout for every linear layer that `modules_to_not_convert` does not name."""
    return Scheme([Group(found)], names(config, "modules_to_not_convert"))


def _mxfp4(config: Config) -> Scheme:
    return _all_but_unconverted(config, layout(format="mxfp4"))


def _fp8(config: Config) -> Scheme:
    """One float32 scale per matrix, or per block of a matrix."""
    found = block_fp8(config, "weight_block_size") or layout(format="fp8")
    left_out = names(config, "modules_to_not_convert", "ignored_layers")
    return Scheme([Group(found)], left_out)


def _fbgemm(config: Config) -> Scheme:
    return _all_but_unconverted(config, PER_CHANNEL_FP8)


# ---------------------------------------------------------------- GPTQ and AutoRound


def _gptq_layout(config: Config) -> LayoutFields:
    """A 16-bit scale per group, and a zero point with as many bits as the weights."""
    bits = number(config, "bits", 4, INTEGERS)
    group = group_size(config, 128)
    return integer(bits, group, scale_bits=16 + bits)


def _gptq(config: Config) -> Scheme:
    """`dynamic` (GPTQModel): regular expressions for modules. With the prefix `-:` they exclude
    modules; otherwise they give them their own bits and group sizes."""
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
            own_layout = _gptq_layout({**config, **own})
            groups.append(Group(own_layout, modules))
    groups.append(Group(_gptq_layout(config)))
    also = ("head",) if flag(config, "lm_head") else ()
    return Scheme(groups, Modules(left_out), also)


AUTO_ROUND_TYPES = {
    "int": None,  # same layout as GPTQ
    "mx_fp": "mxfp4",
    "nv_fp": "nvfp4",
    "nv_fp4_with_static_gs": "nvfp4",
}


def _auto_round_layout(config: Config) -> LayoutFields:
    data_type = config.get("data_type") or "int"
    name = known(data_type, AUTO_ROUND_TYPES, "data_type")
    return layout(format=name) if name else _gptq_layout(config)


def _auto_round(config: Config) -> Scheme:
    """`extra_config`: modules with their own number of bits. Modules of 16 bits or more are not
    quantised."""
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
    group = group_size(config, 128)
    found = integer(bits, group, scale_bits=16 + zero_bits)
    return _all_but_unconverted(config, found)


def _bitsandbytes(config: Config) -> Scheme:
    """LLM.int8 has a float32 scale per row. NF4 has one per 64 elements, or an 8-bit scale if the
    scales are quantised again. A config that names neither is NF4, as in vLLM."""
    if flag(config, "load_in_8bit") or flag(config, "_load_in_8bit"):
        found = integer(8, 0, scale_bits=32)
    else:
        scale_bits = 8 if flag(config, "bnb_4bit_use_double_quant") else 32
        found = layout(format="nf4", scale_bits=scale_bits)
    left_out = names(config, "llm_int8_skip_modules")
    return Scheme([Group(found)], left_out, fused=False)


def _bitsandbytes_8bit(config: Config) -> Scheme:
    return _bitsandbytes({**config, "load_in_8bit": True})


def _mlx(config: Config) -> Scheme:
    """A 16-bit scale and a 16-bit bias per group. MLX also quantises routers, the embedding and the
    head. A module may have its own fields, or false to exclude it."""
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
    bits = number(config, "bits", 4, INTEGERS)
    group = group_size(config, 64)
    return integer(bits, group, scale_bits=16 + 16)  # the scale and the bias


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

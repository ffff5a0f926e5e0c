"""NVIDIA ModelOpt (FP8, NVFP4, mixed precision) and compressed-tensors, whose config format
ModelOpt also writes."""

from collections.abc import Mapping
from typing import Any

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
    name_list,
    names,
    number,
    refused,
    together,
)

ALGORITHMS: dict[str, LayoutFields] = {
    "FP8": layout(format="fp8"),
    "FP8_PB_WO": layout(format="fp8", rows=128, columns=128),
    "FP8_PER_CHANNEL_PER_TOKEN": PER_CHANNEL_FP8,
    "NVFP4": layout(format="nvfp4"),
    "NVFP4_AWQ": layout(format="nvfp4"),
    "W4A16_NVFP4": layout(format="nvfp4"),
    "W4A8_NVFP4_FP8": layout(format="nvfp4"),
    "MXFP4": layout(format="mxfp4"),
    "MXFP8": layout(format="mxfp8"),
    "W4A16_AWQ": layout(format="int4"),
    "W4A8_AWQ": layout(format="int4"),
    "INT8_SQ": layout(format="int8"),
}


def modelopt(config: Config) -> Scheme:
    """ModelOpt's scheme: one algorithm for all linear layers, or one per module
    (`quantized_layers`, for mixed precision)."""
    left_out = names(config, "ignore", "exclude_modules")
    algorithm = config.get("quant_algo")
    listed = config.get("quantized_layers")
    if isinstance(listed, Mapping) and listed:
        layouts = {}
        for module, own in listed.items():
            name = own.get("quant_algo") if isinstance(own, Mapping) else own
            layouts[module] = _of_algorithm(name)
        return Scheme(list(together(layouts)), left_out)
    if algorithm is None and "config_groups" in config:
        return compressed(config)
    return Scheme([Group(_of_algorithm(algorithm))], left_out)


def _of_algorithm(algorithm: Any) -> LayoutFields:
    found: LayoutFields = known(algorithm, ALGORITHMS, "quant_algo")
    return found


def compressed(config: Config) -> Scheme:
    """compressed-tensors: groups of target modules, each with a number of bits, a type and a
    strategy."""
    _require_dense(config.get("sparsity_config"))
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise refused("config_groups", groups, "must be a mapping of groups")
    found = []
    for name, given in groups.items():
        group = _target(f"config_groups.{name}", given, config)
        if group:
            found.append(group)
    return Scheme(found, names(config, "ignore"))


def _require_dense(sparsity: Any) -> None:
    """Reject sparse weights, because their storage layout is not known here."""
    if not isinstance(sparsity, Mapping):
        return
    file_format = sparsity.get("format")
    if file_format not in (None, "dense"):
        rule = "must be dense: the layout of sparse weights is not known here"
        raise refused("sparsity_config.format", file_format, rule)


def _target(key: str, group: Any, config: Config) -> Group | None:
    """One group. None if it quantises only activations or the cache."""
    if not isinstance(group, Mapping):
        raise refused(key, group, "must be a mapping")
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise refused(f"{key}.weights", weights, "must be a mapping")
    targets = name_list(f"{key}.targets", group.get("targets") or ["Linear"])
    file_format = group.get("format") or config.get("format") or ""
    found = _compressed_layout(weights, str(file_format))
    if "Linear" in targets:
        return Group(found)
    return Group(found, Modules(targets))


def _compressed_layout(weights: Config, file_format: str) -> LayoutFields:
    bits = number(weights, "num_bits", 8, INTEGERS)
    group = group_size(weights, -1)
    kind = weights.get("type") or "int"
    if kind not in ("int", "float"):
        raise refused("type", kind, "must be int or float")
    if kind == "float":
        return _floating(bits, group, weights, file_format)
    zero_bits = 0 if flag(weights, "symmetric", True) else bits
    return integer(bits, group, scale_bits=16 + zero_bits)


def _floating(
    bits: int,
    group: int,
    weights: Config,
    file_format: str,
) -> LayoutFields:
    if bits == 4:
        micro_scaled = group == 32 or "mxfp4" in file_format
        return layout(format="mxfp4" if micro_scaled else "nvfp4")
    if bits != 8:
        raise refused("num_bits", bits, "must be 4 or 8 if the type is float")
    block = block_fp8(weights, "block_structure")
    if block:
        return block
    if group == 32:
        return layout(format="mxfp8")
    if group:
        return layout(
            format="fp8",
            rows=1,
            columns=group,
            scale_bits=16,
        )
    if weights.get("strategy") == "channel":
        return PER_CHANNEL_FP8
    return layout(format="fp8")

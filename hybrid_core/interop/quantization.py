"""Published quantisation schemes: which matrices of a checkpoint are stored in which format, from
`quantization_config` and its like.

Formats as their writers lay them out: OpenAI's MXFP4, DeepSeek's block FP8, NVIDIA ModelOpt (FP8,
NVFP4, mixed), compressed-tensors, GPTQ, AWQ, AutoRound, bitsandbytes, FBGEMM, MLX. A matrix that
several published modules make up (`in_proj` of a gated DeltaNet) is left out where one of them is.
GPTQ's order of columns (four bytes an input channel) is not counted."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hybrid_core.design.quantization import StoredWeights
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop.module_names import OUTSIDE, Modules, parts_of
from hybrid_core.validation import SpecError, nearest, short

Config = Mapping[str, Any]
LayoutFields = tuple[tuple[str, Any], ...]  # the fields of StoredWeights that say a format's layout

KEYS = (
    "quantization_config",
    "quantization",
    "compression_config",
)  # the last two: MLX, and compressed-tensors in older files

# Families whose class keeps all experts of a layer in one parameter, which is no linear layer
# (transformers 4 and 5).
FUSED_EXPERTS = ("gpt_oss", "granitemoehybrid")

# ---------------------------------------------------------------- schemes


class Group(NamedTuple):
    """Matrices in one format: of the `modules`, or of every linear layer (None)."""

    layout: LayoutFields
    modules: Modules | None = None


class Scheme(NamedTuple):
    """Groups, of which those that name a matrix come before those of every linear layer, and what
    they leave out. `also`: parts that count as linear layers too, such as the head; `fused`:
    experts that are one parameter are quantised like linear layers."""

    groups: list[Group]
    left_out: Modules
    also: tuple[str, ...] = ()
    fused: bool = True


def _layout(**fields: Any) -> LayoutFields:
    return tuple((key, value) for key, value in fields.items() if value is not None)


def _refused(key: str, value: Any, rule: str) -> SpecError:
    return SpecError(f"quantization_config.{key}: {short(value)} - {rule}")


def _names(config: Config, *keys: str) -> Modules:
    """The modules that any of the keys lists."""
    found: list[str] = []
    for key in keys:
        value = config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise _refused(key, value, "must be a list of names of modules")
        found += value
    return Modules(found)


def _number(config: Config, key: str, default: int, allowed: Iterable[int] | None = None) -> int:
    value = config.get(key)
    if value is None:
        return default
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (allowed is not None and value not in allowed)
    ):
        known = (
            f"one of {', '.join(map(str, allowed))}" if allowed is not None else "a whole number"
        )
        raise _refused(key, value, f"must be {known}")
    return value


def _flag(config: Config, key: str, default: bool = False) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _refused(key, value, "must be true or false")
    return value


def _group_size(config: Config, default: int) -> int:
    """Elements of a row that share a scale; 0 for all of them, which files write as -1."""
    size = _number(config, "group_size", default)
    if size == -1:
        return 0
    if not 8 <= size <= 2**16:
        raise _refused("group_size", size, "must be from 8 to 65,536, or -1 for a whole row")
    return size


def _block(config: Config, key: str) -> LayoutFields | None:
    """FP8 with a float32 scale for each block of rows and columns."""
    value = config.get(key)
    if value is None:
        return None
    sides = value if isinstance(value, list) else []
    if len(sides) != 2 or not all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides
    ):
        raise _refused(key, value, "must be two whole numbers above 0")
    return _layout(format="fp8", rows=sides[0], columns=sides[1])


INTEGERS = (2, 3, 4, 5, 6, 8)
PER_CHANNEL_FP8 = _layout(format="fp8", rows=1, columns=0)


def _integer(bits: int, group: int, scale_bits: int) -> LayoutFields:
    """Integers of so many bits, `group` of a row sharing a scale; 0: all of the row."""
    return _layout(format=f"int{bits}", rows=1, columns=group, scale_bits=scale_bits)


def _mxfp4(config: Config) -> Scheme:
    return Scheme([Group(_layout(format="mxfp4"))], _names(config, "modules_to_not_convert"))


def _fp8(config: Config) -> Scheme:
    """One float32 scale a matrix, or a block of it."""
    layout = _block(config, "weight_block_size") or _layout(format="fp8")
    return Scheme([Group(layout)], _names(config, "modules_to_not_convert", "ignored_layers"))


def _fbgemm(config: Config) -> Scheme:
    """A float32 scale for each output channel."""
    return Scheme([Group(PER_CHANNEL_FP8)], _names(config, "modules_to_not_convert"))


def _gptq_layout(config: Config) -> LayoutFields:
    """A 16-bit scale and a zero point of the weights' own bits for each group."""
    bits = _number(config, "bits", 4, INTEGERS)
    return _integer(bits, _group_size(config, 128), 16 + bits)


def _gptq(config: Config) -> Scheme:
    """`dynamic`: expressions of modules, those behind `-:` left out, the others with bits and
    groups of their own (GPTQModel)."""
    left_out: list[str] = []
    groups: list[Group] = []
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise _refused("dynamic", dynamic, "must be a mapping")
    for expression, own in dynamic.items():
        if expression.startswith("-:"):
            left_out.append(f"re:{expression[2:]}")
        elif isinstance(own, Mapping):
            groups.append(
                Group(
                    _gptq_layout({**config, **own}),
                    Modules([f"re:{expression.removeprefix('+:')}"]),
                )
            )
    also = ("head",) if _flag(config, "lm_head") else ()
    return Scheme([*groups, Group(_gptq_layout(config))], Modules(left_out), also)


AUTO_ROUND_TYPES = {
    "int": None,
    "mx_fp": "mxfp4",
    "nv_fp": "nvfp4",
    "nv_fp4_with_static_gs": "nvfp4",
}


def _auto_round_layout(config: Config) -> LayoutFields:
    name = _known(config.get("data_type") or "int", AUTO_ROUND_TYPES, "data_type")
    return _layout(format=name) if name else _gptq_layout(config)


def _auto_round(config: Config) -> Scheme:
    """`extra_config`: modules with bits of their own; 16 and more are left as they are."""
    own = config.get("extra_config") or {}
    if not isinstance(own, Mapping):
        raise _refused("extra_config", own, "must be a mapping")
    left_out, changed = [], {}
    for name, fields in own.items():
        if (
            isinstance(fields, Mapping)
            and isinstance(fields.get("bits"), int)
            and fields["bits"] >= 16
        ):
            left_out.append(name)
        elif isinstance(fields, Mapping):
            changed[name] = _auto_round_layout({**config, **fields})
    return Scheme([*_together(changed), Group(_auto_round_layout(config))], Modules(left_out))


def _together(layouts: Mapping[str, LayoutFields]) -> Iterator[Group]:
    """One group for the modules of each layout."""
    modules: dict[LayoutFields, list[str]] = defaultdict(list)
    for name, layout in layouts.items():
        modules[layout].append(name)
    for layout, names in modules.items():
        yield Group(layout, Modules(names))


def _awq(config: Config) -> Scheme:
    bits = _number(config, "bits", 4, INTEGERS)
    zero_bits = bits if _flag(config, "zero_point", True) else 0
    layout = _integer(bits, _group_size(config, 128), 16 + zero_bits)
    return Scheme([Group(layout)], _names(config, "modules_to_not_convert"))


def _bitsandbytes(config: Config) -> Scheme:
    """LLM.int8: a float32 scale a row. 4 bits: a float32 scale of 64 elements, or one of 8 bits
    where scales are quantised again. Four bits where the file says neither, as vLLM reads it."""
    left_out = _names(config, "llm_int8_skip_modules")
    if _flag(config, "load_in_8bit") or _flag(config, "_load_in_8bit"):
        return Scheme(
            [Group(_layout(format="int8", rows=1, columns=0, scale_bits=32))], left_out, fused=False
        )
    scale_bits = 8 if _flag(config, "bnb_4bit_use_double_quant") else 32
    return Scheme([Group(_layout(format="nf4", scale_bits=scale_bits))], left_out, fused=False)


MODELOPT: dict[str, LayoutFields] = {
    "FP8": _layout(format="fp8"),
    "FP8_PB_WO": _layout(format="fp8", rows=128, columns=128),
    "FP8_PER_CHANNEL_PER_TOKEN": PER_CHANNEL_FP8,
    "NVFP4": _layout(format="nvfp4"),
    "NVFP4_AWQ": _layout(format="nvfp4"),
    "W4A16_NVFP4": _layout(format="nvfp4"),
    "W4A8_NVFP4_FP8": _layout(format="nvfp4"),
    "MXFP4": _layout(format="mxfp4"),
    "MXFP8": _layout(format="mxfp8"),
    "W4A16_AWQ": _layout(format="int4"),
    "W4A8_AWQ": _layout(format="int4"),
    "INT8_SQ": _layout(format="int8"),
}


def _modelopt(config: Config) -> Scheme:
    left_out = _names(config, "ignore", "exclude_modules")
    algorithm = config.get("quant_algo")
    listed = config.get("quantized_layers")
    if isinstance(listed, Mapping) and listed:
        return Scheme(
            list(_together({name: _modelopt_layout(how) for name, how in listed.items()})), left_out
        )
    if algorithm is None and "config_groups" in config:
        return _compressed(config)
    return Scheme([Group(_known(algorithm, MODELOPT, "quant_algo"))], left_out)


def _modelopt_layout(how: Any) -> LayoutFields:
    """The format of one module in ModelOpt's mixed precision."""
    layout: LayoutFields = _known(
        how.get("quant_algo") if isinstance(how, Mapping) else how, MODELOPT, "quant_algo"
    )
    return layout


def _compressed(config: Config) -> Scheme:
    """compressed-tensors: groups of targets, each with a number of bits, a type and a strategy."""
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        raise _refused(
            "sparsity_config.format",
            sparsity["format"],
            "must be dense: how sparse weights are stored is not known here",
        )
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _refused("config_groups", groups, "must be a mapping of groups")
    found = [
        group
        for name, given in groups.items()
        if (group := _target(f"config_groups.{name}", given, config))
    ]
    return Scheme(found, _names(config, "ignore"))


def _target(key: str, group: Any, config: Config) -> Group | None:
    """One group; None where it speaks of activations or of the cache alone."""
    if not isinstance(group, Mapping):
        raise _refused(key, group, "must be a mapping")
    weights, targets = group.get("weights"), group.get("targets") or ["Linear"]
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise _refused(f"{key}.weights", weights, "must be a mapping")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise _refused(f"{key}.targets", targets, "must be a list of names of modules")
    layout = _compressed_layout(weights, str(group.get("format") or config.get("format") or ""))
    return Group(layout, None if "Linear" in targets else Modules(targets))


def _compressed_layout(weights: Config, file_format: str) -> LayoutFields:
    bits = _number(weights, "num_bits", 8, INTEGERS)
    group = 0 if weights.get("group_size") is None else _group_size(weights, 0)
    kind = weights.get("type") or "int"
    if kind not in ("int", "float"):
        raise _refused("type", kind, "must be int or float")
    if kind == "float":
        return _floating(bits, group, weights, file_format)
    zero_bits = 0 if _flag(weights, "symmetric", True) else bits
    return _integer(bits, group, 16 + zero_bits)


def _floating(bits: int, group: int, weights: Config, file_format: str) -> LayoutFields:
    if bits == 4:
        return _layout(format="mxfp4" if group == 32 or "mxfp4" in file_format else "nvfp4")
    if bits != 8:
        raise _refused("num_bits", bits, "must be 4 or 8 where the type is float")
    if block := _block(weights, "block_structure"):
        return block
    if group:
        return (
            _layout(format="mxfp8")
            if group == 32
            else _layout(format="fp8", rows=1, columns=group, scale_bits=16)
        )
    return PER_CHANNEL_FP8 if weights.get("strategy") == "channel" else _layout(format="fp8")


def _mlx(config: Config) -> Scheme:
    """MLX: a scale and a bias of 16 bits a group, in every matrix, routers, embedding and head
    among them, but for overrides by module."""
    left_out = [name for name, own in config.items() if own is False]
    changed = {
        name: _mlx_layout({**config, **own})
        for name, own in config.items()
        if isinstance(own, Mapping)
    }
    return Scheme(
        [*_together(changed), Group(_mlx_layout(config))],
        Modules(left_out),
        also=("router", *OUTSIDE),
    )


MLX_MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


def _mlx_layout(config: Config) -> LayoutFields:
    mode = config.get("mode") or "affine"
    if mode not in MLX_MODES:
        raise _refused("mode", mode, f"must be {' or '.join(MLX_MODES)}")
    if mode != "affine":
        return _layout(format=mode)
    return _integer(_number(config, "bits", 4, INTEGERS), _group_size(config, 64), 32)


METHODS: dict[str, Callable[[Config], Scheme]] = {
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed,
    **dict.fromkeys(("gptq", "gptq_marlin"), _gptq),
    **dict.fromkeys(("auto-round", "auto_round", "intel/auto-round", "inc"), _auto_round),
    **dict.fromkeys(("awq", "awq_marlin"), _awq),
    **dict.fromkeys(("bitsandbytes", "bitsandbytes_4bit"), _bitsandbytes),
    "bitsandbytes_8bit": lambda config: _bitsandbytes({**config, "load_in_8bit": True}),
    "mlx": _mlx,
}


def _known(word: Any, words: Mapping[str, Any], key: str) -> Any:
    """What a word stands for; a word that is not known is named with the nearest that is."""
    if isinstance(word, str) and word in words:
        return words[word]
    raise _refused(key, word, f"must be {nearest(word, words)}")


def _scheme(config: Config) -> Scheme:
    inside = config.get("quantization")
    if isinstance(inside, Mapping) and "quant_algo" in inside:  # ModelOpt's own file, pasted whole
        config = inside
    method = config.get("quant_method")
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if method is None and "bits" in config:
        method = "mlx"
    found: Scheme = _known(method, METHODS, "quant_method")(config)
    return found


# ---------------------------------------------------------------- onto a design

Numbers = dict[str, list[int]]  # the layers, from 1, that have a part


def stored_weights(config: Any, spec: ArchSpec, family: str = "") -> tuple[StoredWeights, ...]:
    """The rules of a design's `quantization` that a published scheme comes to. `family`: the
    config's model_type. Raises SpecError with one line."""
    if not isinstance(config, Mapping):
        raise SpecError(f"quantization_config: {short(config)} - must be a mapping")
    scheme = _scheme(config)
    experts = scheme.fused or family not in FUSED_EXPERTS
    where: dict[LayoutFields, Numbers] = defaultdict(lambda: defaultdict(list))
    everywhere: Numbers = defaultdict(list)
    for number, layer in enumerate(spec.stack):
        for part, modules in parts_of(layer).items():
            everywhere[part].append(number + 1)
            kept = part.startswith("experts.") and not experts
            group = None if kept else _group_of(scheme, part, modules, number)
            if group:
                where[group.layout][part].append(number + 1)
    for part, modules in OUTSIDE.items():
        group = _group_of(scheme, part, modules, None)
        if group and not (part == "head" and spec.tie_embeddings):
            where[group.layout][part] = []
    return tuple(
        rule for layout, parts in where.items() for rule in _rules(layout, parts, everywhere)
    )


def _group_of(
    scheme: Scheme, part: str, modules: tuple[str, ...], number: int | None
) -> Group | None:
    """The group that holds a part: one that names it, or else one of every linear layer; None where
    it is left out."""
    if scheme.left_out.hold(number, modules):
        return None
    for group in scheme.groups:
        if group.modules is not None and group.modules.hold(number, modules):
            return group
    if part in ("router", *OUTSIDE) and part not in scheme.also:
        return None
    return next((group for group in scheme.groups if group.modules is None), None)


def _rules(layout: LayoutFields, parts: Numbers, everywhere: Numbers) -> Iterator[StoredWeights]:
    """One rule for the parts that have the format in every layer, and one for each set of
    layers."""
    together: dict[tuple[int, ...] | None, list[str]] = defaultdict(list)
    for part, numbers in parts.items():
        in_all = part in OUTSIDE or numbers == everywhere[part]
        together[None if in_all else tuple(numbers)].append(part)
    for layers, names in together.items():
        yield StoredWeights.make(
            **dict(layout), parts=_short_names(names, everywhere, layers is None), layers=layers
        )


def _short_names(names: list[str], everywhere: Numbers, all_layers: bool) -> tuple[str, ...]:
    """`linear` for every matrix of the layers, `attention` for every matrix of a kind."""
    inside = {part for part in everywhere if part != "router"}
    if all_layers and inside <= set(names):
        return ("linear", *(name for name in names if name not in inside))
    found: dict[str, None] = {}
    for name in names:
        kind = name.partition(".")[0]
        whole = {part for part in everywhere if part.partition(".")[0] == kind}
        found[kind if whole <= set(names) else name] = None
    return tuple(found)

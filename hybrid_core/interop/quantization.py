"""Published quantisation schemes: which matrices of a checkpoint are stored in which format, from `quantization_config` and its like.

Formats as their writers lay them out: OpenAI's MXFP4, DeepSeek's block FP8, NVIDIA ModelOpt (FP8, NVFP4, mixed), compressed-tensors, GPTQ,
AWQ, AutoRound, bitsandbytes, FBGEMM, MLX. A part of a layer (`attention.qkv`) is quantised as a whole or not at all: it is left out where
one of its modules is. GPTQ's order of columns (four bytes an input channel) is not counted.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import translate
from typing import Any, NamedTuple

from hybrid_core.spec import ArchSpec, Layer, MoE, SpecError, StoredWeights, short

Config = Mapping[str, Any]
LayoutFields = tuple[tuple[str, Any], ...]  # the fields of StoredWeights that say a format's layout

KEYS = ("quantization_config", "quantization", "compression_config")  # the last two: MLX, and compressed-tensors in older files

# ---------------------------------------------------------------- the modules behind a part

Places = dict[str, tuple[str, ...]]
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj", "mixer.q_proj", "mixer.k_proj", "mixer.v_proj")
_ATTENTION: Places = {"qkv": _QKV, "output_gate": ("self_attn.q_proj",), "out": ("self_attn.o_proj", "mixer.o_proj")}
_MAMBA2: Places = {"in_proj": ("mamba.in_proj", "mixer.in_proj"), "out": ("mamba.out_proj", "mixer.out_proj")}
_MAMBA1: Places = _MAMBA2 | {"x_proj": ("mamba.x_proj", "mixer.x_proj"), "dt_proj": ("mamba.dt_proj", "mixer.dt_proj")}
_BLOCK = ("shared_transf", "shared_transformer")  # of Zamba and Zamba2
# kind of mixer -> its matrices -> where published models keep them, behind the layer's own name
MIXERS: dict[str, Places] = {
    "attention": _ATTENTION,
    "swa": _ATTENTION,
    "diff_attention": _ATTENTION,
    "mla": {
        "q": ("self_attn.q_proj",),
        "q_a": ("self_attn.q_a_proj",),
        "q_b": ("self_attn.q_b_proj",),
        "kv_a": ("self_attn.kv_a_proj_with_mqa",),
        "kv_b": ("self_attn.kv_b_proj",),
        "out": ("self_attn.o_proj",),
    },
    "mamba2": _MAMBA2,
    "diff_mamba2": _MAMBA2,
    "mamba1": _MAMBA1,
    "intra": _ATTENTION | _MAMBA1 | {"out": ("self_attn.o_proj", "mamba.out_proj")},
    "gated_deltanet": {
        "in_proj": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
        "decay, step": ("linear_attn.in_proj_ba", "linear_attn.in_proj_a", "linear_attn.in_proj_b"),
        "out": ("linear_attn.out_proj",),
    },
    "kda": {
        "in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "gates": ("self_attn.f_a_proj", "self_attn.f_b_proj", "self_attn.g_a_proj", "self_attn.g_b_proj"),
        "step": ("self_attn.b_proj",),
        "out": ("self_attn.o_proj",),
    },
    "rg_lru": {"in_proj": ("temporal_block.linear_x", "temporal_block.linear_y"), "out": ("temporal_block.linear_out",)},
    "short_conv": {"in_proj": ("conv.in_proj",), "out": ("conv.out_proj",)},
    "gated_memory": {"in_proj": ("attn.in_proj",), "out": ("attn.out_proj",)},
    "shared_block": {
        "block qkv": tuple(f"{block}.self_attn.{part}_proj" for block in _BLOCK for part in "qkv"),
        "block out": tuple(f"{block}.self_attn.o_proj" for block in _BLOCK),
        "block ffn": tuple(f"{block}.feed_forward.{part}_proj" for block in _BLOCK for part in ("gate_up", "gate", "up", "down")),
        "linear": ("linear",),
        "ssm in_proj": ("mamba_decoder.mamba.in_proj",),
        "ssm out": ("mamba_decoder.mamba.out_proj",),
    },
}
_WAYS = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")


def _below(places: str) -> tuple[str, ...]:
    """The ways in and out of a feed-forward in each of the places."""
    return tuple(f"{place}.{way}" for place in places.split() for way in _WAYS)


_GRANITE_SHARED = ("shared_mlp.input_linear", "shared_mlp.output_linear")
_GRANITE_EXPERTS = ("block_sparse_moe.input_linear", "block_sparse_moe.output_linear")
FEED_FORWARD: Places = {
    "ffn": (*_below("mlp feed_forward mixer"), *_GRANITE_SHARED),
    "router": ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "block_sparse_moe.router.layer", "mixer.gate", "feed_forward.router"),
    "experts": (*_below("mlp.experts.0 mixer.experts.0 feed_forward.experts.0"), "block_sparse_moe.experts.0.w1", *_GRANITE_EXPERTS),
    "shared": (*_below("mlp.shared_expert mlp.shared_experts mixer.shared_experts"), *_GRANITE_SHARED),
    "latent": ("mixer.fc1_latent_proj", "mixer.fc2_latent_proj"),
}
OUTSIDE = {"embedding": ("model.embed_tokens", "backbone.embeddings"), "head": ("lm_head",)}


def parts_of(layer: Layer) -> Places:
    """The matrices of a layer by the names of their parts, with the modules behind each."""
    kind = layer.mixer.kind
    found = {f"{kind}.{part}": modules for part, modules in MIXERS.get(kind, {}).items()}
    if not getattr(layer.mixer, "output_gate", False):
        found.pop(f"{kind}.output_gate", None)
    if isinstance(layer.ffn, MoE):
        names = ["router", "experts"]
        names += ["shared"] if layer.ffn.shared_width else []
        names += ["latent"] if layer.ffn.d_latent else []
    else:
        names = ["ffn"] if layer.ffn else []
    return found | {name: FEED_FORWARD[name] for name in names}


class Modules:
    """A list of modules as configs write them: names, names with *, regular expressions behind `re:`. A name also stands for what is
    below it, and a part of a path for every path that holds it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: dict[str, set[str]] = defaultdict(set)  # by the layer's number, * being every layer
        self._patterns: dict[str, list[re.Pattern[str]]] = defaultdict(list)
        self._whole: list[re.Pattern[str]] = []
        for pattern in patterns:
            self._add(pattern)

    def _add(self, pattern: str) -> None:
        if pattern.startswith("re:"):
            self._whole.append(safe_regex(pattern[3:]))
            return
        numbered = re.fullmatch(r"(?:.*\.)?layers\.(\d+|\*)\.(.+)", pattern)
        number, tail = (numbered[1], numbered[2]) if numbered else ("*", pattern)
        if "*" in tail:
            self._patterns[number].append(re.compile(translate(tail)))
        else:
            self._names[number].add(tail)

    def hold(self, number: int | None, module: str) -> bool:
        """Whether the list speaks of a module of a layer (numbered from 0), or of one outside (None)."""
        keys = ("*",) if number is None else ("*", str(number))
        paths = list(_paths(module))
        for key in keys:
            if not self._names[key].isdisjoint(paths):
                return True
            if any(pattern.match(module) for pattern in self._patterns[key]):
                return True
        whole = module if number is None else f"model.layers.{number}.{module}"
        return any(pattern.match(whole) for pattern in self._whole)


def _paths(module: str) -> Iterator[str]:
    """Every run of components of a dotted path."""
    parts = module.split(".")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
            yield ".".join(parts[start:end])


MOST_REPEATS = 4  # unbounded repeats in one expression; more could take very long to fail


def safe_regex(text: str) -> re.Pattern[str]:
    """A regular expression from a stranger's file, if it cannot take long: short, few repeats, none of a group. Raises SpecError."""
    plain = re.sub(r"\\.", "x", text)
    slow = re.search(r"\)\s*[*+{?]", plain) or len(re.findall(r"[*+{]", plain)) > MOST_REPEATS or len(text) > 200
    if slow:
        raise SpecError(f"quantization_config: {short(text)} - this expression could take too long to search with")
    try:
        return re.compile(text)
    except re.error as error:
        raise SpecError(f"quantization_config: {short(text)} - not a regular expression ({error})") from None


# ---------------------------------------------------------------- schemes


class Group(NamedTuple):
    """Matrices in one format: `layout` are the fields of StoredWeights; `modules` None: every linear layer."""

    layout: LayoutFields
    modules: Modules | None = None


class Scheme(NamedTuple):
    """Groups, of which the first that holds a matrix counts, and what they leave out. `everything`: routers, the embedding and the head
    are in them too."""

    groups: list[Group]
    left_out: Modules
    everything: bool = False


def _layout(**fields: Any) -> LayoutFields:
    return tuple((key, value) for key, value in fields.items() if value is not None)


def _names(config: Config, *keys: str) -> Modules:
    """The modules that any of the keys lists."""
    found: list[str] = []
    for key in keys:
        value = config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise _refused(key, value, "must be a list of names of modules")
        found += value
    return Modules(found)


def _refused(key: str, value: Any, rule: str) -> SpecError:
    return SpecError(f"quantization_config.{key}: {short(value)} - {rule}")


def _number(config: Config, key: str, default: int, allowed: Iterable[int] | None = None) -> int:
    value = config.get(key, default)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or (allowed is not None and value not in allowed):
        known = f"one of {', '.join(map(str, allowed))}" if allowed is not None else "a whole number"
        raise _refused(key, value, f"must be {known}")
    return value


INTEGERS = (2, 3, 4, 5, 6, 8)


def _integer(bits: int, group: int, scale_bits: int) -> LayoutFields:
    """Integers of so many bits, `group` of a row sharing a scale; -1: all of the row."""
    return _layout(format=f"int{bits}", rows=1, columns=max(0, group), scale_bits=scale_bits)


def _mxfp4(config: Config) -> Scheme:
    return Scheme([Group(_layout(format="mxfp4"))], _names(config, "modules_to_not_convert"))


def _fp8(config: Config) -> Scheme:
    """One float32 scale a matrix, or a block of it."""
    block = config.get("weight_block_size")
    if block is None:
        layout = _layout(format="fp8")
    elif isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block):
        layout = _layout(format="fp8", rows=block[0], columns=block[1])
    else:
        raise _refused("weight_block_size", block, "must be two whole numbers above 0")
    return Scheme([Group(layout)], _names(config, "modules_to_not_convert", "ignored_layers"))


def _fbgemm(config: Config) -> Scheme:
    """A float32 scale for each output channel."""
    return Scheme([Group(_layout(format="fp8", rows=1, columns=0))], _names(config, "modules_to_not_convert"))


def _gptq(config: Config) -> Scheme:
    """A 16-bit scale and a zero point of the weights' own bits for each group."""
    bits = _number(config, "bits", 4, INTEGERS)
    return Scheme(
        [Group(_integer(bits, _number(config, "group_size", 128), 16 + bits))], _names(config, "modules_in_block_to_not_quantize")
    )


def _awq(config: Config) -> Scheme:
    bits, group = _number(config, "bits", 4, INTEGERS), _number(config, "group_size", 128)
    zero_bits = bits if config.get("zero_point", True) else 0
    return Scheme([Group(_integer(bits, group, 16 + zero_bits))], _names(config, "modules_to_not_convert"))


def _bitsandbytes(config: Config) -> Scheme:
    """LLM.int8: a float32 scale a row. 4 bits: a float32 scale of 64 elements, or one of 8 bits where scales are quantised again. Four
    bits where the file says neither, as vLLM reads it."""
    left_out = _names(config, "llm_int8_skip_modules")
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        return Scheme([Group(_layout(format="int8", rows=1, columns=0, scale_bits=32))], left_out)
    scale_bits = 8 if config.get("bnb_4bit_use_double_quant") else 32
    return Scheme([Group(_layout(format="nf4", scale_bits=scale_bits))], left_out)


MODELOPT: dict[str, LayoutFields] = {
    "FP8": _layout(format="fp8"),
    "FP8_PB_WO": _layout(format="fp8", rows=128, columns=128),
    "FP8_PER_CHANNEL_PER_TOKEN": _layout(format="fp8", rows=1, columns=0),
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
        return Scheme(list(_listed(listed)), left_out)
    if algorithm is None and "config_groups" in config:
        return _compressed(config)
    return Scheme([Group(_known(algorithm, MODELOPT, "quant_algo"))], left_out)


def _listed(layers: Mapping[str, Any]) -> Iterator[Group]:
    """ModelOpt's mixed precision: a format for each module by name."""
    modules: dict[LayoutFields, list[str]] = defaultdict(list)
    for name, how in layers.items():
        algorithm = how.get("quant_algo") if isinstance(how, Mapping) else how
        modules[_known(algorithm, MODELOPT, "quant_algo")].append(name)
    for layout, names in modules.items():
        yield Group(layout, Modules(names))


def _compressed(config: Config) -> Scheme:
    """compressed-tensors: groups of targets, each with a number of bits, a type and a strategy."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _refused("config_groups", groups, "must be a mapping of groups")
    found = []
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if weights is None:  # only activations or the cache
            continue
        if not isinstance(weights, Mapping):
            raise _refused(f"config_groups.{name}.weights", weights, "must be a mapping")
        targets = group.get("targets") or ["Linear"]
        modules = None if "Linear" in targets else Modules(str(target) for target in targets)
        found.append(Group(_compressed_layout(weights, str(group.get("format") or config.get("format") or "")), modules))
    return Scheme(found, _names(config, "ignore"))


def _compressed_layout(weights: Config, file_format: str) -> LayoutFields:
    bits, group = _number(weights, "num_bits", 8, INTEGERS), _number(weights, "group_size", 0)
    if weights.get("type") == "float":
        return _floating(bits, group, weights, file_format)
    zero_bits = 0 if weights.get("symmetric", True) else bits
    return _integer(bits, group, 16 + zero_bits)


def _floating(bits: int, group: int, weights: Config, file_format: str) -> LayoutFields:
    if bits == 4:
        return _layout(format="mxfp4" if group == 32 or "mxfp4" in file_format else "nvfp4")
    if bits != 8:
        raise _refused("num_bits", bits, "must be 4 or 8 where the type is float")
    block = weights.get("block_structure")
    if isinstance(block, list) and len(block) == 2:
        return _layout(format="fp8", rows=block[0], columns=block[1])
    by_channel = weights.get("strategy") == "channel"
    return _layout(format="fp8", rows=1, columns=0) if by_channel else _layout(format="fp8")


def _mlx(config: Config) -> Scheme:
    """MLX: a scale and a bias of 16 bits a group, in every matrix, the embedding and the head among them, but for overrides by module."""
    left_out, groups = [], []
    for name, own in config.items():
        if own is False:
            left_out.append(name)
        elif isinstance(own, Mapping):
            groups.append(Group(_mlx_layout({**config, **own}), Modules([name])))
    return Scheme([*groups, Group(_mlx_layout(config))], Modules(left_out), everything=True)


def _mlx_layout(config: Config) -> LayoutFields:
    if config.get("mode") in ("mxfp4", "mxfp8", "nvfp4"):
        return _layout(format=config["mode"])
    return _integer(_number(config, "bits", 4, INTEGERS), _number(config, "group_size", 64), 32)


METHODS: dict[str, Callable[[Config], Scheme]] = {
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "auto-round": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "bitsandbytes_4bit": _bitsandbytes,
    "bitsandbytes_8bit": lambda config: _bitsandbytes({**config, "load_in_8bit": True}),
    "mlx": _mlx,
}


def _known(word: Any, words: Mapping[str, Any], key: str) -> Any:
    """What a word stands for; a word that is not known is named with the nearest that is."""
    if isinstance(word, str) and word in words:
        return words[word]
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.0)[0]
    raise _refused(key, word, f"must be one of {', '.join(words)} (the nearest is {close})")


def _scheme(config: Config) -> Scheme:
    method = config.get("quant_method")
    if method is None and "quant_algo" in config:
        method = "modelopt"
    if method is None and "bits" in config:
        method = "mlx"
    found: Scheme = _known(method, METHODS, "quant_method")(config)
    return found


# ---------------------------------------------------------------- onto a design

Numbers = dict[str, list[int]]  # the layers, from 1, that have a part


def stored_weights(config: Any, spec: ArchSpec) -> tuple[StoredWeights, ...]:
    """The rules of a design's `quantization` that a published scheme comes to. Raises SpecError with one line."""
    if not isinstance(config, Mapping):
        raise SpecError(f"quantization_config: {short(config)} - must be a mapping")
    scheme = _scheme(config)
    where: dict[LayoutFields, Numbers] = defaultdict(lambda: defaultdict(list))
    everywhere: Numbers = defaultdict(list)
    for number, layer in enumerate(spec.stack):
        for part, modules in parts_of(layer).items():
            everywhere[part].append(number + 1)
            group = _group_of(scheme, part, modules, number)
            if group:
                where[group.layout][part].append(number + 1)
    for part, modules in OUTSIDE.items():
        group = _group_of(scheme, part, modules, None)
        if group and not (part == "head" and spec.tie_embeddings):
            where[group.layout][part] = []
    return tuple(rule for layout, parts in where.items() for rule in _rules(layout, parts, everywhere))


def _group_of(scheme: Scheme, part: str, modules: tuple[str, ...], number: int | None) -> Group | None:
    """The first group that holds a part, or None where it is left out."""
    if any(scheme.left_out.hold(number, module) for module in modules):
        return None
    by_default = scheme.everything or part not in ("router", *OUTSIDE)
    for group in scheme.groups:
        named = group.modules is not None and any(group.modules.hold(number, module) for module in modules)
        if named or (group.modules is None and by_default):
            return group
    return None


def _rules(layout: LayoutFields, parts: Numbers, everywhere: Numbers) -> Iterator[StoredWeights]:
    """One rule for the parts that have the format in every layer, and one for each set of layers."""
    together: dict[tuple[int, ...] | None, list[str]] = defaultdict(list)
    for part, numbers in parts.items():
        in_all = part in OUTSIDE or numbers == everywhere[part]
        together[None if in_all else tuple(numbers)].append(part)
    for layers, names in together.items():
        yield StoredWeights.make(**dict(layout), parts=_short_names(names, everywhere, layers is None), layers=layers)


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

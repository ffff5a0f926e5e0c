"""The public functions of `import hybrid_core`. Each takes a design in any form and has the usual
defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid_core import extras
from hybrid_core.design.presets import Preset
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import export as formats
from hybrid_core.interop import huggingface, published
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.results.environment import Environment
from hybrid_core.results.profile import (
    Ceilings,
    Decode,
    Energy,
    Generation,
    LiveCache,
    PeakMemory,
    Prefill,
    Trace,
)
from hybrid_core.speed import hardware as devices
from hybrid_core.speed.cost import Cost
from hybrid_core.speed.cost import cost as cost_of
from hybrid_core.speed.roofline import Prediction, predict
from hybrid_core.workload import Workload

if TYPE_CHECKING:
    from hybrid_core.live.modules.model import HybridLM

# A spec, a preset, the name of a preset or of a published model, or the path of a YAML file or of
# a config.json.
Design = ArchSpec | Preset | str | Path


def resolve(design: Design) -> ArchSpec:
    """The spec of a design in any form. Raises SpecError with one line."""
    if isinstance(design, ArchSpec):
        return design
    if isinstance(design, Preset):
        return design.spec
    return published.resolve(str(design))


def cost(design: Design, *, hardware: str = "h100_sxm", **workload: Any) -> Cost:
    """Every cost of a design under a workload, from closed forms: parameters, FLOPs, cache, memory
    and speed.

    `workload` takes the fields of `Workload`. The default is one sequence of 8,192 tokens in bf16.
    Cache bytes are per sequence; memory bytes are for the whole batch. Raises SpecError.

    >>> import hybrid_core as h
    >>> inter = h.cost("inter-1to5-1b", context_len=8192)
    >>> inter.params.non_embedding
    958935840
    >>> llama = h.cost("llama-1b", context_len=8192)
    >>> round(inter.cache_bytes.exact / llama.cache_bytes.exact, 2)
    0.17
    """
    return cost_of(
        resolve(design),
        Workload.make(**workload),
        devices.get(hardware),
    )


def forecast(design: Design, *, hardware: str = "h100_sxm", **workload: Any) -> Prediction:
    """How fast a device runs a design: seconds and tokens/s of the prefill and of one decode step.

    For a measured device (`hybrid-core calibrate`, or `profiles/measured/`) the figures come from
    its measured rates. For any other device they are the datasheet ceiling, which real code does
    not reach. Raises SpecError.

    >>> import hybrid_core as h
    >>> asked = {"batch_size": 8, "context_len": 32768, "hardware": "h100_sxm"}
    >>> inter, llama = h.forecast("inter-1to5-1b", **asked), h.forecast("llama-1b", **asked)
    >>> print(round(inter.decode_tokens_per_s / llama.decode_tokens_per_s, 1))
    3.0
    """
    return predict(
        resolve(design),
        Workload.make(**workload),
        devices.get(hardware),
    )


def build(
    design: Design,
    *,
    device: str = "cpu",
    dtype: str = "fp32",
    seed: int = 0,
) -> "HybridLM":
    """The torch module of a design, initialised with `seed`. `device` is cpu, cuda, cuda:N, auto or
    meta. On meta, the module has shapes but no data.

    Raises SpecError, also if torch is not installed.

    >>> import hybrid_core as h
    >>> model = h.build("inter-1to5-1b", device="meta")
    >>> sum(parameter.numel() for parameter in model.parameters())
    1221604128
    """
    extras.require("live", "build")
    spec = resolve(design)
    asked = ProfileOptions.make(dtype=dtype, seed=seed)
    from hybrid_core.live.modules.cache import TORCH_DTYPES
    from hybrid_core.live.modules.model import build as built
    from hybrid_core.live.profiling.device import resolve as device_of

    place = device if device == "meta" else device_of(device)
    return built(spec, place, TORCH_DTYPES[asked.dtype], asked.seed)


class Profiled(NamedTuple):
    """The results of a profile, by part. A part is None if the time budget ran out before it."""

    environment: Environment | None = None
    trace: Trace | None = None
    ceilings: Ceilings | None = None
    cache: LiveCache | None = None
    prefill: Prefill | None = None
    decode: Decode | None = None
    generation: Generation | None = None
    memory: PeakMemory | None = None
    energy: Energy | None = None


PARTS = (
    Environment,
    Trace,
    Ceilings,
    LiveCache,
    Prefill,
    Decode,
    Generation,
    PeakMemory,
    Energy,
)


def profile(design: Design, **options: Any) -> Profiled:
    """Measure a design in this process.

    `options` are the fields of `ProfileOptions`. The pages and `hybrid-core profile` run the same
    measurement in a separate process and store the result. Raises SpecError, also if torch is not
    installed.

    >>> import hybrid_core as h
    >>> tiny = h.ArchSpec.load("examples/tiny.yaml")
    >>> asked = {"device": "cpu", "dtype": "fp32", "budget_s": 5.0}
    >>> [row] = h.profile(tiny, prompt_len=32, totals=(64,), **asked).cache.rows
    >>> row.live_bytes == row.exact_bytes
    True
    """
    extras.require("live", "profile")
    spec = resolve(design)
    asked = ProfileOptions.make(**options)
    from hybrid_core.live.profiling.profile import profile as measure

    stored: dict[str, Any] = {}
    measure(
        spec,
        asked,
        store=stored.__setitem__,
        report=lambda fraction, message: None,
    )
    found: dict[str, Any] = {}
    for kind in PARTS:
        if kind.part in stored:
            found[kind.part] = kind.read(stored[kind.part])
    return Profiled(**found)


def read_config(config: str | Path | Mapping[str, Any], name: str | None = None) -> ArchSpec:
    """The design of a published config, given as the path of a config.json or as its contents.

    Raises SpecError that names the first field it does not understand.

    >>> import hybrid_core as h
    >>> h.read_config({"model_type": "mamba2", "num_hidden_layers": 2}, name="two").pattern
    'MM'
    """
    if isinstance(config, Mapping):
        return huggingface.spec_from_config(config, name)
    path = Path(config)
    return huggingface.spec_from_config(
        huggingface.read_config(path),
        name or published.config_name(path),
    )


def export(design: Design, to: str) -> dict[str, str]:
    """A design's files in another framework's format, by file name. `to` is yaml, hf, megatron,
    fla, torchtitan or python.

    Raises SpecError that names what the format cannot express.

    >>> import hybrid_core as h
    >>> list(h.export("llama-1b", to="hf"))
    ['config.json']
    """
    return formats.export(resolve(design), to)

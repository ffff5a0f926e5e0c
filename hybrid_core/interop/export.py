"""Exports of a design: YAML, Hugging Face, Megatron, FLA, torchtitan, Python. Errors name what a
format cannot express."""

import json
from collections.abc import Callable

from hybrid_core.design.built import require_built
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import fla, megatron, torchtitan
from hybrid_core.interop.huggingface import hf_config
from hybrid_core.interop.kernel_shapes import FORMATS as KERNEL_FORMATS
from hybrid_core.interop.kernel_shapes import kernel_refusals
from hybrid_core.interop.roundtrip import ExportError, require_same
from hybrid_core.interop.snippet import snippet
from hybrid_core.interop.stack_parts import first_of
from hybrid_core.mixers.mamba2 import Mamba2Mixer
from hybrid_core.validation import SpecError

Files = dict[str, str]  # the text of each file, by its name


def export(spec: ArchSpec, to: str) -> Files:
    """The files of a design in one of FORMATS. Raises a one-line ExportError with what the format
    cannot express."""
    if to not in FORMATS:
        raise SpecError(f"to: {to!r} - must be {' or '.join(FORMATS)}")
    try:
        return FORMATS[to](spec)
    except SpecError as error:
        raise ExportError(f"{to}: {str(error).removeprefix(f'{to}: ')}") from None


def notes(spec: ArchSpec, to: str) -> list[str]:
    """Notes for the user of the export, one per line: shapes that the framework's kernels do not
    support, and settings that the format has no field for."""
    if to in ("yaml", "python"):
        return []
    lines = []
    if to in KERNEL_FORMATS:
        lines += [f"kernel shape: {line}" for line in kernel_refusals(spec)]
    if spec.quantization:
        rule = "not written - the export describes the weights before quantisation"
        lines.append(f"quantization: {rule}")
    if spec.state_dtype and to != "hf":
        rule = "not written: this format has no field for it"
        lines.append(f"state_dtype: {spec.state_dtype} - {rule}")
    return lines


def _yaml(spec: ArchSpec) -> Files:
    return {"spec.yaml": spec.to_yaml()}


def _hf(spec: ArchSpec) -> Files:
    return {"config.json": json.dumps(hf_config(spec), indent=2) + "\n"}


def _megatron(spec: ArchSpec) -> Files:
    flags = megatron.to_megatron(spec)
    ssm = first_of(spec, Mamba2Mixer)
    chunk_size = ssm.chunk_size if ssm else 128
    design = megatron.from_megatron(flags, megatron.block_sizes(spec), chunk_size)
    require_same(spec, design, megatron.VERSION)
    return {"megatron.args": megatron.megatron_text(spec, flags)}


def _fla(spec: ArchSpec) -> Files:
    config = fla.to_fla(spec)
    require_same(spec, fla.from_fla(config), fla.VERSION)
    return {"config.json": json.dumps(config, indent=2) + "\n"}


def _torchtitan(spec: ArchSpec) -> Files:
    sizes = torchtitan.to_torchtitan(spec)
    require_same(spec, torchtitan.from_torchtitan(sizes), "torchtitan's Llama 3")
    return {"model_config.py": torchtitan.torchtitan_text(spec, sizes)}


def _python(spec: ArchSpec) -> Files:
    require_built(spec)
    return {"model.py": snippet(spec)}


FORMATS: dict[str, Callable[[ArchSpec], Files]] = {
    "yaml": _yaml,
    "hf": _hf,
    "megatron": _megatron,
    "fla": _fla,
    "torchtitan": _torchtitan,
    "python": _python,
}

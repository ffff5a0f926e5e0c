"""Commands that read and write designs: presets, import, export."""

import argparse
import sys
from pathlib import Path
from typing import Any

from hybrid_core.cli.shared import Command, add_spec, naming_the_output, print_json, write
from hybrid_core.costs.model import model_costs
from hybrid_core.data import folder
from hybrid_core.design import presets
from hybrid_core.design.built import not_built
from hybrid_core.interop import published
from hybrid_core.interop.export import FORMATS, export
from hybrid_core.interop.export import notes as export_notes
from hybrid_core.interop.huggingface import read_config, spec_from_config
from hybrid_core.report.text.design import imported_line, models_table


def add(command: Command) -> None:
    """Declare the commands."""
    text = "List the paper's designs and the published models, or print one as YAML"
    parser = command("presets", _presets, text, as_json=True)
    parser.add_argument("--show", metavar="NAME", help="print this design's YAML")

    text = "Read a published config.json as a design"
    parser = command("import", _import, text, as_json=True)
    parser.add_argument(
        "config",
        metavar="CONFIG.json",
        type=Path,
        help="a config in the format of Hugging Face, mamba_ssm or Samba",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="file for the YAML (default: standard output)",
    )
    parser.add_argument("--name", help="name of the design (default: the file's name)")

    text = "Write a design as files for another framework, or say what its format cannot express"
    parser = command("export", _export, text)
    add_spec(parser)
    parser.add_argument(
        "--to",
        required=True,
        choices=list(FORMATS),
        help="the format of the files",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write to, created if missing",
    )


def _presets(arguments: argparse.Namespace) -> None:
    if arguments.show:
        print(published.resolve(arguments.show).to_yaml(), end="")
        return
    found = [presets.get(name) for name in presets.names()]
    models = published.models()
    if arguments.json:
        records = [_preset_record(preset) for preset in found]
        records += [_model_record(name, model) for name, model in models.items()]
        print_json(records)
        return
    for preset in found:
        print(f"{preset.spec.name:20} {preset.spec.pattern:30} {preset.source}")
    print("\n" + models_table(models))


def _preset_record(preset: presets.Preset) -> dict[str, Any]:
    spec = preset.spec
    return {
        "name": spec.name,
        "pattern": spec.pattern,
        "source": preset.source,
    }


def _model_record(name: str, model: published.Model) -> dict[str, Any]:
    rest = model._asdict()
    spec = rest.pop("spec")
    return {"name": name, "pattern": spec.pattern} | rest


def _import(arguments: argparse.Namespace) -> None:
    name = arguments.name or published.config_name(arguments.config)
    spec = spec_from_config(read_config(arguments.config), name)
    costs = model_costs(spec)
    params = costs.params()
    cache_bytes = {
        "paper": int(costs.cache_bytes(8192, "paper")),
        "exact": int(costs.cache_bytes(8192, "exact")),
    }
    reason = not_built(spec)
    level = "built"
    if reason:
        level = "costed"
    if arguments.output:
        write(arguments.output, spec.to_yaml())
    if arguments.json:
        print_json(
            {
                "name": spec.name,
                "pattern": spec.pattern,
                "params": params._asdict(),
                "not_built": reason,
                "cache_bytes_8k": cache_bytes,
                "level": level,
                "yaml": spec.to_yaml(),
            }
        )
        return
    if not arguments.output:
        print(spec.to_yaml(), end="")
    print(imported_line(spec.name, params, cache_bytes["paper"], reason), file=sys.stderr)


def _export(arguments: argparse.Namespace) -> None:
    spec = published.resolve(arguments.spec)
    files = export(spec, arguments.to)
    with naming_the_output():
        folder(arguments.output)
    for name, text in files.items():
        write(arguments.output / name, text)
        print(arguments.output / name)
    for line in export_notes(spec, arguments.to):
        print(line, file=sys.stderr)

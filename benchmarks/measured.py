"""Make a GPU's entry in profiles/measured/ from the records in FOLDER.

`python -m benchmarks.measured FOLDER [--out FOLDER]` writes two files, which
profiles/measured/README.md describes. <device>.json is what `calibrate` would have stored on that
machine (`hardware.read_device` reads it). <device>.csv holds measured prefill, decode and
generation of each design; the rates are not derived from these. Only finished steps count; the
script names the parts with unfinished ones.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.record import kept, results
from hybrid_core import data
from hybrid_core.speed.hardware import Hardware, Source, read_device
from hybrid_core.validation import SpecError


class Row(NamedTuple):
    """One measurement.

    For prefill, `seconds` and `tokens` are those of the prompt; for decode, of one step and of the
    context; for generation, of the whole sequence.
    """

    design: str
    phase: str
    batch_size: int
    tokens: int
    seconds: float
    tokens_per_s: float


def rows(folder: Path) -> Iterator[Row]:
    """Every measurement of a design in a run's records."""
    for found in results(folder / "prefill.json").values():
        yield _row(
            found["design"],
            "prefill",
            found["batch_size"],
            found["prompt_len"],
            found["best_s"],
            found["prompt_len"],
        )
    for found in results(folder / "decode.json").values():
        yield _row(
            found["design"],
            "decode",
            found["batch_size"],
            found["context_len"],
            found["median_s"],
            1,
        )
    for design, parts in results(folder / "paper.json").items():
        batch = parts["decode"]["batch_size"]
        for found in parts["generation"]["rows"]:
            yield Row(
                design,
                "generation",
                batch,
                found["total_len"],
                found["latency_s"],
                found["tokens_per_s"],
            )


def _row(
    design: str,
    phase: str,
    batch_size: int,
    tokens: int,
    seconds: float,
    made: int,
) -> Row:
    return Row(
        design,
        phase,
        batch_size,
        tokens,
        seconds,
        batch_size * made / seconds,
    )


def entry(folder: Path) -> Hardware:
    """The calibrated device of a run. Raises SpecError if the run has no calibration."""
    path = folder / "calibrate.json"
    calibrations = results(path)
    if not calibrations:
        raise SpecError(
            f"{path} - no finished calibration; "
            f"`python -m benchmarks.gpu calibrate --out {folder}` makes it"
        )
    rates = Hardware.model_validate_json(json.dumps(calibrations["bf16"]))
    record = kept(path)
    environment = record["environment"]
    packages = environment["packages"]
    versions = f"torch {packages['torch']}, triton {packages['triton']}"
    text = f"measured on {record['date']} in bf16 with {versions}"
    sources = (
        Source(fields=("peak_flops_per_s", "bandwidth_bytes_per_s", "rates"), text=text, url=""),
    )
    name = environment["name"]
    return rates.model_copy(
        update={"key": f"{slug(name)}_bf16", "name": f"{name} (bf16, measured)", "sources": sources}
    )


def slug(name: str) -> str:
    """A device's name as a file name: "NVIDIA H200" becomes nvidia_h200."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def one_device(folder: Path) -> str:
    """The device that all records of a run are from. Raises SpecError for several, or none."""
    names = set()
    for path in folder.glob("*.json"):
        environment = kept(path).get("environment")
        if environment:
            names.add(environment["name"])
    if len(names) != 1:
        found = ", ".join(sorted(names)) or "none"
        raise SpecError(f"{folder} - must hold records of one device, but has records of {found}")
    return str(names.pop())


def unfinished(folder: Path) -> Iterator[str]:
    """A line for each part that has steps without a result."""
    for path in sorted(folder.glob("*.json")):
        left = sum(step["state"] != "done" for step in kept(path).get("steps", {}).values())
        if left:
            yield f"{left} steps are not done: see {path} for the reasons"


def write(folder: Path, out: Path) -> Path:
    """Write both files of a run's device, and return the path of the first. Raises SpecError."""
    name = slug(one_device(folder))
    device = entry(folder)
    path = data.folder(out) / f"{name}.json"
    with data.in_place_of(path) as beside:
        beside.write_text(device.model_dump_json(indent=1) + "\n", "utf-8")
        read_device(beside)  # what cannot be read is not kept
    with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Row._fields)
        table.writerows(rows(folder))
    return path


def main() -> int:
    """Write the entry and name the steps that are missing; 2 if FOLDER cannot make an entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=data.PROFILES / "measured")
    asked = parser.parse_args()
    try:
        print(f"written to {write(asked.folder, asked.out)}")
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    for line in unfinished(asked.folder):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

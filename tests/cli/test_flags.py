"""Models of options as flags, and back."""

import argparse
import shlex
from typing import Annotated, Literal

import pytest
from pydantic import Field

from hybrid_core.cli.flags import add_flags, options
from hybrid_core.live.profiling.options import ProfileOptions
from hybrid_core.live.retrieval.options import CheckpointOptions, ProbeOptions
from hybrid_core.options import Flag, command_line, help_text
from hybrid_core.validation import Frozen, SpecError
from hybrid_core.workload import Workload


class Oven(Frozen):
    """Options of every sort."""

    heat: Annotated[int, Field(ge=0, description="degrees")] = 180
    bake_s: Annotated[float, Field(description="how long")] = 600.0
    shelf: Literal["top", "middle", "bottom"] = Field(default="middle", description="where")
    recipe_path: Annotated[
        str | None,
        Field(description="what to follow"),
        Flag(name="book", metavar="FILE", default="none"),
    ] = None
    minutes: Annotated[
        tuple[int, ...], Field(strict=False, description="when to look"), Flag(metavar="N,N")
    ] = (5, 10)
    secret: int = 7


def parsed(model: type[Frozen], *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser, model)
    return parser.parse_args(arguments)


def test_a_field_with_a_description_is_a_flag_named_without_its_unit() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Oven, before="oven: ")
    text = " ".join(parser.format_help().split())
    assert "--heat HEAT oven: degrees (default: 180)" in text
    assert "--bake BAKE oven: how long (default: 600.0)" in text
    assert "--shelf SHELF oven: where: top, middle or bottom (default: middle)" in text
    assert "--book FILE oven: what to follow (default: none)" in text
    assert "--minutes N,N" in text
    assert "secret" not in text


def test_what_is_not_given_keeps_its_default() -> None:
    assert options(Oven, parsed(Oven)) == Oven()


def test_what_is_given_is_read_by_its_type() -> None:
    flags = "--heat 200 --bake 1.5 --shelf top --book b.txt --minutes 1,2,3"
    made = options(Oven, parsed(Oven, *flags.split()))
    assert (made.heat, made.bake_s, made.shelf) == (200, 1.5, "top")
    assert (made.recipe_path, made.minutes) == ("b.txt", (1, 2, 3))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--shelf floor", "shelf: 'floor' - "),
        ("--heat -1", "heat: -1 - "),
        ("--minutes one", "minutes: 'one' - must be whole numbers separated by commas"),
    ],
)
def test_what_a_field_does_not_allow_is_refused_in_its_name(flags: str, line: str) -> None:
    with pytest.raises(SpecError) as error:
        options(Oven, parsed(Oven, *flags.split()))
    assert str(error.value).startswith(line)


def test_the_command_line_quotes_values_and_leaves_out_what_is_none() -> None:
    values = {"heat": 200, "recipe_path": "my book", "minutes": [1, 2], "shelf": None, "secret": 1}
    assert command_line(Oven, values) == "--heat 200 --book 'my book' --minutes 1,2"


MADE = [
    ProfileOptions(budget_s=12.5, dtype="fp32", decode="eager", state_dtype="fp32"),
    ProbeOptions(text_path="a b.txt", trials=3, d_model=64),
    CheckpointOptions(path="folder", lengths=(64, 128), task="niah_multikey"),
    Workload(batch_size=3, prompt_len=7, weight_dtype="mxfp4"),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_the_command_line_of_options_gives_them_again(made: Frozen) -> None:
    line = command_line(type(made), made.model_dump(mode="json"))
    assert options(type(made), parsed(type(made), *shlex.split(line))) == made


def test_a_default_in_words_stands_in_the_help() -> None:
    field = Workload.model_fields["prompt_len"]
    assert help_text(field) == "tokens prefilled (default: the whole context)"

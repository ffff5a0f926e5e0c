"""Controls for a job's options. As with the flags of the command line, their help and defaults come
from the options' models."""

from collections.abc import Callable

import streamlit as st
from pydantic.fields import FieldInfo
from streamlit.delta_generator import DeltaGenerator

from hybrid_core.options import own, words
from hybrid_core.validation import Frozen


def number(
    place: DeltaGenerator,
    label: str,
    model: type[Frozen],
    name: str,
    step: int = 1,
    usual: int | None = None,
    key: str | None = None,
) -> int:
    """A control for a whole number. `usual`: its initial value if the model leaves that to the
    device."""
    field = model.model_fields[name]
    if usual is None:
        usual = int(field.default)
    with place:
        return st.number_input(
            label,
            value=usual,
            step=step,
            key=key,
            help=says(field),
        )


def choice(
    place: DeltaGenerator,
    label: str,
    model: type[Frozen],
    name: str,
    written: Callable[[str], str] = str,
) -> str:
    """A control for one of the values that the field allows, each shown as formatted by
    `written`."""
    field = model.model_fields[name]
    allowed = words(field)
    with place:
        chosen: str = st.selectbox(
            label,
            allowed,
            index=allowed.index(field.default),
            format_func=written,
            help=says(field),
        )
    return chosen


def says(field: FieldInfo) -> str:
    """The help for an option. It names the default only if the control does not show it."""
    text = str(field.description)
    sentence = text[:1].upper() + text[1:]
    default = own(field).default
    if default is None:
        return sentence
    return f"{sentence}. Default: {default}"

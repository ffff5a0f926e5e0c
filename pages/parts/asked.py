"""Controls of a job's options. As with the flags of the command line, what they say and what they
hold at first comes from the options' models."""

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
    """A whole number. `usual`: what it holds at first if the model leaves that to the device."""
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
    """One of the words that the field allows, each shown as `written` makes it."""
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
    """What an option means. Its default is named only where the control does not show it."""
    text = str(field.description)
    sentence = text[:1].upper() + text[1:]
    default = own(field).default
    if default is None:
        return sentence
    return f"{sentence}. Default: {default}"

"""The view on screen: a design and its history, its workload, and what it is compared with. The
session keeps it, and the link carries it."""

import re
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from hybrid_core.design import presets
from hybrid_core.design.spec import ArchSpec
from hybrid_core.interop import link
from hybrid_core.report.html import HOME
from hybrid_core.speed import hardware
from hybrid_core.validation import SpecError

VIEW = "view"
HISTORY = "view.history"  # the designs that Undo and Redo walk
AT = "view.at"  # where in the history the design on screen is
MAX_HISTORY = 200


def view() -> link.View:
    """The session's view. A new session takes it from the link, or else from the worked example.
    The address bar follows."""
    if VIEW not in st.session_state:
        opened = _from_link()
        st.session_state[VIEW] = opened
        st.session_state[HISTORY] = [opened.design]
        st.session_state[AT] = 0
    _leave_a_device_that_is_gone()
    _write_address()
    current_view: link.View = st.session_state[VIEW]
    return current_view


def _query() -> dict[str, list[str]]:
    """The query of the address bar."""
    return {key: st.query_params.get_all(key) for key in st.query_params}


def _from_link() -> link.View:
    """The view of the link. If the link cannot be read, its design alone; if that cannot be read
    either, the worked example."""
    query = _query()
    try:
        return link.from_query(query)
    except SpecError as error:
        shown = link.design_of(query)
        instead = "its design is shown with the usual workload"
        if shown is None:
            shown = presets.get(presets.FIRST).spec
            instead = "the worked example is shown instead"
        st.error(f"This link cannot be opened; {instead}. {plain(str(error))}")
        return link.View(design=shown)


def _leave_a_device_that_is_gone() -> None:
    """Return to the usual accelerator, with a warning, if the calibration that the view names was
    damaged or deleted."""
    shown: link.View = st.session_state[VIEW]
    try:
        hardware.get(shown.hardware)
    except SpecError as error:
        usual = link.View.model_fields["hardware"].default
        instead = plain(hardware.get(usual).name)
        st.warning(f"{plain(str(error))}  \nCosts are shown for {instead} instead.")
        st.session_state[VIEW] = shown.model_copy(update={"hardware": usual})
        st.session_state.pop("work.hardware", None)  # the value of the control on Compose


def current() -> ArchSpec:
    """The last valid design."""
    return view().design


def change(**fields: Any) -> None:
    """Change fields of the view. A new design becomes a step of the history."""
    before = view()
    st.session_state[VIEW] = before.model_copy(update=fields)
    asked = fields.get("design", before.design)
    if asked != before.design:
        _append(asked)
    _write_address()


def _append(spec: ArchSpec) -> None:
    """Add a design to the history. The designs that Redo would have reached are dropped."""
    until_now = st.session_state[HISTORY][: st.session_state[AT] + 1]
    steps = [*until_now, spec][-MAX_HISTORY:]
    st.session_state[HISTORY] = steps
    st.session_state[AT] = len(steps) - 1


def keep(spec: ArchSpec) -> None:
    """Make `spec` the design on screen and in the address bar."""
    change(design=spec)


def open_in_compose(spec: ArchSpec) -> None:
    """Make `spec` the design on screen, and have the controls of Compose filled from it."""
    keep(spec)
    for key in list(st.session_state):
        if str(key).startswith("form."):
            del st.session_state[key]


def can_step(by: int) -> bool:
    """Whether the history has a design `by` steps away."""
    at: int = st.session_state[AT] + by
    return 0 <= at < len(st.session_state[HISTORY])


def step(by: int) -> ArchSpec:
    """Move `by` steps in the history and return the design found there."""
    st.session_state[AT] += by
    found: ArchSpec = st.session_state[HISTORY][st.session_state[AT]]
    st.session_state[VIEW] = view().model_copy(update={"design": found})
    return found


def _write_address() -> None:
    """Put the view in the address bar, unless it is there already."""
    wanted = link.to_query(st.session_state[VIEW])
    lists = {}
    for key, value in wanted.items():
        lists[key] = value if isinstance(value, list) else [value]
    if _query() != lists:
        st.query_params.from_dict(wanted)


def home() -> str:
    """The server's address, as the browser sees it."""
    base = urlsplit(st.context.url or HOME)
    return f"{base.scheme}://{base.netloc}"


def address(page: str = "") -> str:
    """The link to the view."""
    return link.address(view(), home(), page)


def plain(text: str) -> str:
    """Text of a user, escaped so that Markdown shows it as it was written.

    Streamlit turns `:word:` into a picture even if its colons are escaped. An invisible character
    (U+2060) after the first colon prevents it."""
    text = re.sub(r":(?=[\w/+-]+:)", ":\u2060", text)
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~:$^])", r"\\\1", text)

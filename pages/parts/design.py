"""The view on screen: the design with its history, its workload, what it is compared with. Kept in
the session, carried in the link."""

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

VIEW, HISTORY, AT = "view", "view.history", "view.at"
MAX_HISTORY = 200


def view() -> link.View:
    """The session's view, else the link's, else the worked example; the address follows. Of a bad
    link a good design is kept."""
    if VIEW not in st.session_state:
        query = {key: st.query_params.get_all(key) for key in st.query_params}
        try:
            shown = link.from_query(query)
        except SpecError as error:
            found = link.design_of(query)
            shown = link.View(design=found or presets.get(presets.FIRST).spec)
            instead = (
                "its design is shown with the usual workload"
                if found
                else "the worked example is shown instead"
            )
            st.error(f"This link cannot be opened; {instead}. {plain(str(error))}")
        st.session_state.update({VIEW: shown, HISTORY: [shown.design], AT: 0})
    _leave_a_device_that_is_gone()
    _write_address()
    current_view: link.View = st.session_state[VIEW]
    return current_view


def _leave_a_device_that_is_gone() -> None:
    """Where the calibration that the view names was damaged or deleted meanwhile: the usual
    accelerator, with a word about it."""
    shown: link.View = st.session_state[VIEW]
    try:
        hardware.get(shown.hardware)
    except SpecError as error:
        usual = link.View.model_fields["hardware"].default
        st.warning(
            f"{plain(str(error))}  \nCosts are shown for {plain(hardware.get(usual).name)} instead."
        )
        st.session_state[VIEW] = shown.model_copy(update={"hardware": usual})
        st.session_state.pop("work.hardware", None)  # what the control on Compose holds


def current() -> ArchSpec:
    """The last good design."""
    return view().design


def change(**fields: Any) -> None:
    """Other fields of the view; a new design becomes a step of the history."""
    before = view()
    st.session_state[VIEW] = before.model_copy(update=fields)
    if fields.get("design", before.design) != before.design:
        steps = st.session_state[HISTORY][: st.session_state[AT] + 1]
        st.session_state[HISTORY] = [*steps, fields["design"]][-MAX_HISTORY:]
        st.session_state[AT] = len(st.session_state[HISTORY]) - 1
    _write_address()


def keep(spec: ArchSpec) -> None:
    """Make `spec` the design on screen and in the address bar."""
    change(design=spec)


def open_in_compose(spec: ArchSpec) -> None:
    """Make `spec` the design on screen and let the controls of Compose take it over."""
    keep(spec)
    for key in [key for key in st.session_state if str(key).startswith("form.")]:
        del st.session_state[key]


def can_step(by: int) -> bool:
    """Whether there is a design `by` steps on in the history."""
    at: int = st.session_state[AT] + by
    return 0 <= at < len(st.session_state[HISTORY])


def step(by: int) -> ArchSpec:
    """Move in the history and return the design found there."""
    st.session_state[AT] += by
    found: ArchSpec = st.session_state[HISTORY][st.session_state[AT]]
    st.session_state[VIEW] = view().model_copy(update={"design": found})
    return found


def _write_address() -> None:
    wanted = link.to_query(st.session_state[VIEW])
    lists = {}
    for key, value in wanted.items():
        lists[key] = value if isinstance(value, list) else [value]
    if {key: st.query_params.get_all(key) for key in st.query_params} != lists:
        st.query_params.from_dict(wanted)


def home() -> str:
    """The server's address as the browser sees it."""
    base = urlsplit(st.context.url or HOME)
    return f"{base.scheme}://{base.netloc}"


def address(page: str = "") -> str:
    """The link to the view."""
    return link.address(view(), home(), page)


def plain(text: str) -> str:
    """Text of the user's for places that read Markdown: shown as it was written.

    Streamlit turns `:word:` into a picture even where its colons are escaped, so something
    invisible stands behind the first."""
    text = re.sub(r":(?=[\w/+-]+:)", ":\u2060", text)
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~:$^])", r"\\\1", text)

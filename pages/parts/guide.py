"""The guided start: three questions, three designs."""

import streamlit as st

from hybrid_core import hardware
from hybrid_core.glossary import explain
from hybrid_core.guide import ROLES, Need, Proposal, propose
from hybrid_core.report import units
from pages.parts import design, draft, work

SIZES = ("350M", "1B", "3B")


@st.dialog("Guided start", width="large", icon=":material/explore:")
def ask() -> None:
    """The questions, and what follows from the answers."""
    need = _questions()
    proposals = propose(need)
    st.markdown(f"**{len(proposals)} {'design' if len(proposals) == 1 else 'designs'} that the paper trained**")
    for column, proposal in zip(st.columns(3), proposals, strict=False):
        with column.container(border=True):
            _card(proposal, need)
    st.caption(
        "NLL and accuracy are quoted; cache is exact; speed is predicted from the ceilings of the device. Left out are designs of which "
        "the paper warns at this context when something far back must be recalled."
    )


def _questions() -> Need:
    known = hardware.devices()
    view = design.view()
    left, right = st.columns(2)
    contexts = sorted({*work.CONTEXTS, view.workload.context_len})
    context = left.select_slider(
        "What is your context?", contexts, view.workload.context_len, format_func=units.length, help=explain("context")
    )
    device = right.selectbox(
        "Your GPU?", list(known), list(known).index(view.hardware), format_func=lambda key: known[key].name, help=explain("accelerator")
    )
    wish = left.segmented_control("Quality or speed?", list(ROLES), default="quality", format_func=str.capitalize, required=True)
    size = right.segmented_control("Size", SIZES, default="1B", required=True, help="The paper trained these; it says most about 1B")
    speed = left.number_input("At least (tokens/s a sequence)", min_value=0, value=0, step=10, help="0: any speed will do")
    batch = right.number_input("Sequences at the same time", min_value=1, max_value=65536, value=view.workload.batch_size)
    return Need(context_len=context, hardware=device, wish=wish, size=size, batch_size=int(batch), min_tokens_per_s=float(speed))


def _card(proposal: Proposal, need: Need) -> None:
    found = proposal.candidate
    st.markdown(f"**{proposal.role}**  \n{design.plain(found.spec.name)}")
    if found.problem:
        st.warning(design.plain(found.problem))
    speed, cache = units.rate(found.tokens_per_s), units.n_bytes(found.cache_bytes)
    st.markdown(f"**{found.nll:.3f}** NLL (quoted)  \n**{speed}** decode (predicted)  \n**{cache}** cache (exact)")
    if st.button("Open this design", key=f"guide-{found.spec.name}", on_click=_take, args=(proposal, need), type="primary"):
        st.rerun()
    for line in proposal.trade_offs:
        st.caption(design.plain(line))


def _take(proposal: Proposal, need: Need) -> None:
    """The design and the answers become the view."""
    design.change(design=proposal.candidate.spec, workload=need.workload, hardware=need.hardware)
    draft.load(proposal.candidate.spec)
    work.load(design.view(), anew=True)

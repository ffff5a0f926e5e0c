"""The frame around every page. app.py serves it."""

import streamlit as st

from pages.parts import browser, layout

st.set_page_config(
    page_title="Hybrid architecture explorer", page_icon=browser.STATIC / "icon.svg", layout="wide"
)

layout.theme()

st.navigation(
    [
        st.Page("../pages/compose.py", title="Compose", icon=":material/stacks:", default=True),
        st.Page("../pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page("../pages/profile.py", title="Profile", icon=":material/speed:"),
        st.Page("../pages/retrieval.py", title="Retrieval", icon=":material/search:"),
        st.Page("../pages/paper.py", title="Paper", icon=":material/article:"),
        st.Page("../pages/models.py", title="Models", icon=":material/library_books:"),
        st.Page("../pages/runs.py", title="Runs", icon=":material/history:"),
        st.Page("../pages/glossary.py", title="Glossary", icon=":material/dictionary:"),
    ],
    position="top",
).run()

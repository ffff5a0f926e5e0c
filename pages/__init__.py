"""The pages. Streamlit takes a folder of this name for navigation of its own, until app.py has run: a link to a page may come first."""

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

if PagesManager.uses_pages_directory:
    PagesManager.uses_pages_directory = False
    st.rerun()

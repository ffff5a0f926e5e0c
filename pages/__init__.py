"""The pages. Streamlit takes a folder of this name for navigation of its own until navigation.py has run: a page's link may come first."""

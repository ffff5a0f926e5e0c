"""Results for people: text tables, figures (used by the pages too), and the self-contained HTML
report."""

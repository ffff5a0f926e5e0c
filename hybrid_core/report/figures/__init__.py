"""Charts, for pages and reports alike. Each says in its title what it shows and in its foot where
the data are from.

A chart is computed from closed forms, from the paper's tables or from stored runs; nothing is
measured here."""

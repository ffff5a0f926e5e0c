"""Charts for pages and reports. The title of a chart says what it shows, its foot where the data
come from.

Charts are computed from closed forms, the paper's tables or stored runs. Nothing is measured
here."""

"""What the paper's own numbers say about the quality of a design: scaling laws, effects of single
choices, and an estimate of NLL."""

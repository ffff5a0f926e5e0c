"""What the paper's tables say about a design, and how reliable that is."""

"""What the paper's tables say of a design, and how well."""

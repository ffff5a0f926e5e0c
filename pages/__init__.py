"""The pages, and what they have in common."""

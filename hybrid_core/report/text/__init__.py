"""Results as text for a terminal. Each number carries its convention."""

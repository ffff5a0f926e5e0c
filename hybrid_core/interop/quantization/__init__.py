"""Weights that are stored in fewer bits: what published schemes say of a design."""

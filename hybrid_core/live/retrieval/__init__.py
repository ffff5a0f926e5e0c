"""Retrieval: train a small proxy of a design on a synthetic language, then test it on needles at
every depth and context length."""

"""Retrieval: a small proxy of a design is trained on a synthetic language and asked for needles at
every depth and length."""

"""Retrieval: train a small proxy of a design on a synthetic language, then ask it for needles at
every depth and context length."""

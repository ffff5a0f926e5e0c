"""Hybrid architecture explorer: compose, cost, build, profile and compare Transformer/Mamba
language models."""

__version__ = "0.1.0"

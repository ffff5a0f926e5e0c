"""Sums of the closed forms over a design: parameters, FLOPs, cache, memory and what fits. No torch.

The formulas of one layer are in mixers/ and ffns/; `model.py` sums them over a design."""

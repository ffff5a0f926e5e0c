"""Closed forms for parameters, FLOPs, cache, memory and roofline. No torch: a sweep needs no GPU
stack.

One file per mixer, twins of the files in modules/; `model.py` sums them over a design, `summary.py`
gathers all of it."""

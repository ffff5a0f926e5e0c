"""Measuring a live model: traced FLOPs, cache bytes, throughput, memory, energy. `profile.py` runs
the parts in order."""

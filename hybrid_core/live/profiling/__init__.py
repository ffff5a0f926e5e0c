"""Measuring a live model: traced FLOPs, cache bytes, throughput, memory, energy. `profile.py` puts
the parts in order."""

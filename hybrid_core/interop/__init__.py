"""Other libraries' configs, in and out, without torch. Loading a checkpoint's tensors needs torch
and is in live/weights.py."""

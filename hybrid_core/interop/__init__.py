"""Other libraries' models in and out. Configs are read without torch (huggingface.py); tensors need
it (weights.py)."""

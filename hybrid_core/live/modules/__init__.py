"""The torch modules of a design; `model.build` makes the whole model."""

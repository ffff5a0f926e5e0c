"""The torch modules that a design becomes; `model.build` makes the whole model."""

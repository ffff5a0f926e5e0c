"""Designs: ArchSpec and its stack of layers, placement, presets."""

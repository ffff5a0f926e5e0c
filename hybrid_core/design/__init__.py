"""What a design is: ArchSpec and its stack of layers, placement, presets."""

"""The families of published models, one file each: how to read and write a config of the family,
and the tensor names in its checkpoints."""

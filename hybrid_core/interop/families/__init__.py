"""The families of published models, one file each: how a config of the family is read and written,
and what its checkpoint calls the tensors."""

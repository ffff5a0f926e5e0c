"""Everything that needs torch: modules, profiling, retrieval, weights of checkpoints."""

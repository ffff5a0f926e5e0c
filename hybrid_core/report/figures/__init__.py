"""Charts, for pages and reports alike. Each says in its title what it shows and in its foot where
the data are from.

A chart is computed from closed forms, from the paper's tables or from stored runs; nothing is
measured here."""

from hybrid_core.report.figures.ablations import QUESTIONS
from hybrid_core.report.figures.designs import (
    beside_each_other,
    cache_by_context,
    decode_by_context,
    flops_by_part,
    longest_context,
    memory_by_context,
    memory_by_part,
)
from hybrid_core.report.figures.measured import generation, live_cache
from hybrid_core.report.figures.paper import paper_cache, paper_throughput, quality_throughput
from hybrid_core.report.figures.retrieval import (
    PROBE_CHARTS,
    copying_by_length,
    loss_by_position,
    recall_by_pairs,
    retrieval_charts,
    retrieval_map,
    training_curve,
)
from hybrid_core.report.figures.stack import STACK_TITLE, layers, stack, stack_source
from hybrid_core.report.figures.style import MODEL_LABEL, Figure, Named, label, source, title
from hybrid_core.report.figures.words import data, table, told

__all__ = [
    "MODEL_LABEL",
    "PROBE_CHARTS",
    "QUESTIONS",
    "STACK_TITLE",
    "Figure",
    "Named",
    "beside_each_other",
    "cache_by_context",
    "copying_by_length",
    "data",
    "decode_by_context",
    "flops_by_part",
    "generation",
    "label",
    "layers",
    "live_cache",
    "longest_context",
    "loss_by_position",
    "memory_by_context",
    "memory_by_part",
    "paper_cache",
    "paper_throughput",
    "quality_throughput",
    "recall_by_pairs",
    "retrieval_charts",
    "retrieval_map",
    "source",
    "stack",
    "stack_source",
    "table",
    "title",
    "told",
    "training_curve",
]

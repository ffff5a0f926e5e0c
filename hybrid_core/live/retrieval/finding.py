"""What Figure 4 of the paper (arXiv 2510.04800v3) shows for each family of designs.

The figure prints no numbers, so the findings are sentences. No torch.
"""

from hybrid_core.design.spec import ArchSpec
from hybrid_core.evidence.quality.mixture import mixture

SOURCE = "Figure 4 and Section 4.3, models of 1B trained at 8K tokens"
_WINDOWS = (
    "Models with sliding windows recall only what is in the window, in the sinks or near the end "
    "of the context."
)
_HYBRIDS = (
    "recall holds at every depth to about 1.5 times the trained length. Beyond that, the middle of "
    "the context is lost first."
)
FIGURE4 = {
    "llama": "Llama recalls at every depth of its trained length, and next to nothing past it.",
    "swa": _WINDOWS,
    "window": _WINDOWS,
    "mamba": "Mamba recalls only what is near the end of the context.",
    "inter": f"Inter-hybrid: {_HYBRIDS}",
    "intra": f"Intra-hybrid: {_HYBRIDS}",
}


def finding(spec: ArchSpec) -> str:
    """The paper's finding for a design's mix of layers, or a line saying that there is none."""
    mixed = mixture(spec.pattern)
    if mixed is None:
        return "The paper's retrieval test has no design with this mix of layers."
    return FIGURE4[mixed.family]

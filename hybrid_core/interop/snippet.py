"""A design as a Python file that builds the model."""

from hybrid_core.design.spec import ArchSpec

_TEMPLATE = '''\
"""Builds a model composed in the hybrid architecture explorer.

Run it in the explorer's repository, with its requirements installed."""

import torch

from hybrid_core.live.modules.model import build
from hybrid_core.design.spec import ArchSpec

DESIGN = {design}

device = "cuda" if torch.cuda.is_available() else "cpu"
model = build(ArchSpec.from_yaml("\\n".join(DESIGN)), device=device)
logits = model(torch.zeros(1, 16, dtype=torch.long, device=device))
print(
    f"{{sum(p.numel() for p in model.parameters()):,}} parameters, "
    f"logits of shape {{tuple(logits.shape)}}"
)
'''


def snippet(spec: ArchSpec) -> str:
    """The Python source. The design is a list of string literals, one per line of YAML, so that no
    name in it can end the string."""
    lines = "".join(f"    {line!r},\n" for line in spec.to_yaml().splitlines())
    return _TEMPLATE.format(design=f"[\n{lines}]")

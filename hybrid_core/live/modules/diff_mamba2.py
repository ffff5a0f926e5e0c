"""Differential Mamba-2: two branches, the second scaled by lambda and subtracted.

This is Diff-M of arXiv 2510.04800, Table 18: differential attention (arXiv 2410.05258) applied to
Mamba-2 (arXiv 2405.21060). The closed forms are in mixers/diff_mamba2.py.
"""

import torch
from torch import Tensor, nn

from hybrid_core.live.modules.cache import Position, SSMCache
from hybrid_core.live.modules.diff_lambda import DiffLambda
from hybrid_core.live.modules.mamba2 import Mamba2Heads
from hybrid_core.live.modules.norm import RMSNorm
from hybrid_core.mixers.diff_mamba2 import DiffMamba2Mixer


class DiffMamba2(Mamba2Heads):
    """W1 y1 - lambda W2 y2; x [B, T, d_model] -> [B, T, d_model].

    y1 and y2 are the gated outputs of two Mamba-2 branches. Heads share B and C only within a
    group, so one scan over twice the groups computes both branches: the first half of the heads is
    the first branch. `out` holds W1 and W2 side by side. As in the intra-hybrid block, the branches
    have no gated norm.
    """

    def __init__(
        self,
        spec: DiffMamba2Mixer,
        d_model: int,
        layer_index: int,
    ) -> None:
        super().__init__(spec, d_model)
        self.sign = -1 if spec.fusion == "diff" else 1
        self.norm: nn.Module = nn.Identity()
        if spec.norm == "group":
            self.norm = RMSNorm(spec.d_ssm, spec.head_dim)
        # B and C act as keys and queries, so lambda's vectors have their width.
        self.scalar: DiffLambda | None = None
        if spec.scalar == "diff_t":
            self.scalar = DiffLambda(spec.d_state, layer_index)
        self.out = nn.Linear(spec.d_ssm, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        cache: SSMCache | None = None,
        start: Position = 0,
    ) -> Tensor:
        branches = self.norm(self.gated(x, cache))
        first, second = branches.chunk(2, -1)
        if self.scalar is not None:
            second = second * self.scalar.factor(second.dtype)
        signed = torch.cat([first, self.sign * second], -1)
        out: Tensor = self.out(signed)
        return out

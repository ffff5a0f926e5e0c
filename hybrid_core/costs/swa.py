"""Costs of sliding-window attention with sinks. Twin of modules/swa.py."""

from dataclasses import dataclass

from hybrid_core.costs.attention import AttentionCosts
from hybrid_core.costs.terms import Num, least
from hybrid_core.spec import SwaMixer


@dataclass(frozen=True)
class SwaCosts(AttentionCosts):
    """Attention in which token t sees min(t, window + sink) tokens, and whose cache holds as many."""

    spec: SwaMixer

    @property
    def span(self) -> int:
        return self.spec.window + self.spec.sink

    def tokens_kept(self, context_len: Num) -> Num:
        return least(context_len, self.span)

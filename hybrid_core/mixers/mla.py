"""Multi-head latent attention. Costed, not built."""

from typing import ClassVar, Self

from hybrid_core.factors import Factors, scaled
from hybrid_core.mixers.attention import n_small_heads
from hybrid_core.mixers.base import Entry, Mixer
from hybrid_core.mixers.sized import Matrix, SizedCosts, Sizes
from hybrid_core.validation import Dim, quiet


class LatentAttentionMixer(Mixer):
    """Multi-head latent attention (DeepSeek, Kimi). Keys and values are expanded from a latent of
    width `kv_rank`. The cache holds that latent and `rope_head_dim` channels of a key that all
    heads share. `q_rank`: queries come from a latent of this width."""

    entry: ClassVar[Entry] = Entry(
        name="mla",
        meaning="Attention whose keys and values come from a latent, which the cache holds.",
        label="Latent attention",
        letter="L",
        colour="#B35806",
        matrices=("q", "q_a", "q_b", "kv_a", "kv_b", "out"),
    )
    n_heads: Dim
    nope_head_dim: Dim
    rope_head_dim: Dim
    v_head_dim: Dim
    kv_rank: Dim
    q_rank: Dim | None = None
    bias: bool = quiet(False)

    def shrunk(self, factors: Factors) -> Self:
        """Fewer heads, each about as wide as in a proxy's attention. Ranks shrink like widths."""
        head_dim = self.nope_head_dim + self.rope_head_dim
        n_heads = n_small_heads(scaled(self.n_heads * head_dim, factors.width))
        per_head = factors.width * self.n_heads / n_heads
        q_rank = self.q_rank
        if q_rank is not None:
            q_rank = scaled(q_rank, factors.width)
        return self.changed(
            n_heads=n_heads,
            nope_head_dim=scaled(self.nope_head_dim, per_head, 2, 2),
            rope_head_dim=scaled(self.rope_head_dim, per_head, 2, 2),
            v_head_dim=scaled(self.v_head_dim, per_head, 2, 2),
            kv_rank=scaled(self.kv_rank, factors.width),
            q_rank=q_rank,
        )

    def costs(self, d_model: int) -> SizedCosts:
        """The cache holds the latent and the shared key channels, as in serving engines.
        transformers caches expanded keys and values instead.

        A prefill expands the latent to keys and values: n_heads (d_qk + d_v) multiply-adds per
        pair. A decode step absorbs the expansion into queries and outputs, with the same products
        `kv_b` once per token. It attends over the latent itself, all of which every head reads:
        n_heads ((kv_rank + rope_head_dim) + kv_rank) multiply-adds per pair (DeepSeek-V2, arXiv
        2405.04434, Section 2.1.2 and Appendix C)."""
        qk_head_dim = self.nope_head_dim + self.rope_head_dim
        cached = self.kv_rank + self.rope_head_dim
        d_expanded = self.n_heads * (self.nope_head_dim + self.v_head_dim)
        vectors = self.kv_rank + (self.q_rank or 0)  # norms of the latents
        if self.bias:
            vectors += (self.q_rank or 0) + cached + d_model
        sizes = Sizes(
            matrices=(
                *self._queries(d_model, self.n_heads * qk_head_dim),
                ("kv_a", Matrix(d_model, cached)),
                ("kv_b", Matrix(self.kv_rank, d_expanded)),
                ("out", Matrix(self.n_heads * self.v_head_dim, d_model)),
            ),
            vectors=vectors,
            kv=cached,
            pair_flops=2 * self.n_heads * (qk_head_dim + self.v_head_dim),
            decode_pair_flops=2 * self.n_heads * (cached + self.kv_rank),
        )
        return SizedCosts(d_model, sizes)

    def _queries(self, d_model: int, d_q: int) -> list[tuple[str, Matrix]]:
        """The projection to queries, in two steps if they come from a latent."""
        if not self.q_rank:
            return [("q", Matrix(d_model, d_q))]
        return [
            ("q_a", Matrix(d_model, self.q_rank)),
            ("q_b", Matrix(self.q_rank, d_q)),
        ]

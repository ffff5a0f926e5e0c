"""The mixer of a layer that has only a feed-forward."""

import torch
from torch import nn

from hybrid_core.live.modules.cache import CacheDtypes, SSMCache
from hybrid_core.mixers.none import NoMixer as Spec


class NoMixer(nn.Module):
    """A mixer without weights. The tensors of its cache are empty."""

    def __init__(self, spec: Spec, d_model: int, layer_index: int) -> None:
        super().__init__()
        self.spec = spec

    def new_cache(
        self,
        batch: int,
        capacity: int,
        dtypes: CacheDtypes,
        device: torch.device,
    ) -> SSMCache:
        return SSMCache.zeros(batch, (0,), (0,), dtypes, device)

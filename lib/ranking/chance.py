"""The control every ranking must beat."""

import torch

from lib.network import conv_layers
from lib.ranking.registry import Evidence, Scores, ranking
from lib.seeds import seed_of


@ranking("random", name="random")
def at_random(evidence: Evidence, draw: int = 0) -> Scores:
    """(1, F) uniform numbers, float64, fixed by (seed, draw, layer). No paper's ranking; Mittal et
    al. 2018 find it a strong control where filters are pruned."""
    return {
        layer: torch.rand(
            1,
            conv.out_channels,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed_of(evidence.seed, "random", draw, layer)),
        )
        for layer, conv in conv_layers(evidence.model).items()
    }

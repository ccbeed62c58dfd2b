"""Which filters matter for which class: one registry of rankings, a file for each family.

    scores = RANKINGS["mse"](evidence)            # layer -> (C, F), higher = freeze first

A new ranking is one function (see `lib.ranking.registry`) and one line of a profile. This room
knows nothing of freezing.
"""

from lib.ranking.activations import mean_activation, natural_heat, natural_patches
from lib.ranking.chance import at_random
from lib.ranking.gradients import conductance, fisher, fisher_map, fullgrad_filter, taylor
from lib.ranking.hindsight import (
    LossChange,
    ablation_damage,
    damage,
    fisher_change,
    loss_change,
)
from lib.ranking.maps import (
    contrast,
    grad_cam,
    input_gradient,
    max_over_classes,
    minus_mean,
    mse_at_init,
    one_image,
    rescaled,
)
from lib.ranking.registry import NEEDS, RANKINGS, Evidence, Ranking, Scores, Trial, ranking
from lib.ranking.relevance import lrp
from lib.ranking.similarity import METRICS, NULL_MAPS, by_similarity, null_maps, similarity
from lib.ranking.weights import weight_norm

__all__ = [
    "METRICS",
    "NEEDS",
    "NULL_MAPS",
    "RANKINGS",
    "Evidence",
    "LossChange",
    "Ranking",
    "Scores",
    "Trial",
    "ablation_damage",
    "at_random",
    "by_similarity",
    "conductance",
    "contrast",
    "damage",
    "fisher",
    "fisher_change",
    "fisher_map",
    "fullgrad_filter",
    "grad_cam",
    "input_gradient",
    "loss_change",
    "lrp",
    "max_over_classes",
    "mean_activation",
    "minus_mean",
    "mse_at_init",
    "natural_heat",
    "natural_patches",
    "null_maps",
    "one_image",
    "ranking",
    "rescaled",
    "similarity",
    "taylor",
    "weight_norm",
]

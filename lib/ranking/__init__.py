"""Which filters matter for which class: one registry of rankings, a file for each family.

    scores = RANKINGS["mse"](evidence)            # layer -> (C, F), higher = freeze first

A new ranking is one function (see `lib.ranking.registry`) and one line of a profile. This room
knows nothing of freezing.
"""

from lib.ranking.chance import at_random
from lib.ranking.registry import NEEDS, RANKINGS, Evidence, Ranking, Scores, ranking
from lib.ranking.similarity import METRICS, NULL_MAPS, by_similarity, null_maps, similarity

__all__ = [
    "METRICS",
    "NEEDS",
    "NULL_MAPS",
    "RANKINGS",
    "Evidence",
    "Ranking",
    "Scores",
    "at_random",
    "by_similarity",
    "null_maps",
    "ranking",
    "similarity",
]

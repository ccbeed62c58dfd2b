"""Are the explanations right, and what do they tell?

choices       which filters a ranking chooses, by class, by map, by budget rule
explanations  saliency maps: completeness, randomised layers, deletion, within and between classes
damage        does a score predict the damage of ablating the filter
reliability   does the ranking hold when it is made again; how much of it is brightness
grafting      a mask judged without training
readouts      what is left of a task: parts put back, a linear probe, pairings of a shared head
"""

from lib.examination.choices import COMPARED, class_overlap, overlaps, realised_by_rule
from lib.examination.damage import damage_in_halves, predicts_damage, rank_correlation
from lib.examination.explanations import (
    attributions,
    cascade,
    completeness,
    deleted,
    deletion,
    efficient_mprt,
    example_images,
    map_entropy,
    randomisation,
    within_and_between,
)
from lib.examination.grafting import grafted, judge
from lib.examination.readouts import linear_probe, pairings, put_back, readouts
from lib.examination.reliability import (
    agreement,
    heat_again,
    maps_in_halves,
    mse_terms,
    noise_reliability,
    ranking_reliability,
    shares,
)

__all__ = [
    "COMPARED",
    "agreement",
    "attributions",
    "cascade",
    "class_overlap",
    "completeness",
    "damage_in_halves",
    "deleted",
    "deletion",
    "efficient_mprt",
    "example_images",
    "grafted",
    "heat_again",
    "judge",
    "linear_probe",
    "map_entropy",
    "maps_in_halves",
    "mse_terms",
    "noise_reliability",
    "overlaps",
    "pairings",
    "predicts_damage",
    "put_back",
    "randomisation",
    "rank_correlation",
    "ranking_reliability",
    "readouts",
    "realised_by_rule",
    "shares",
    "within_and_between",
]

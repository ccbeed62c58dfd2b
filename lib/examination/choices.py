"""Which filters a ranking chooses, how far that depends on the class and on the map, and what each
budget rule makes of it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib import freezing
from lib.ranking import NULL_MAPS, RANKINGS, Evidence

COMPARED = (*(f"mse_{kind}" for kind in NULL_MAPS), "cosine", "ssim", "pearson", "random", "bottom")


def overlaps(evidence: Evidence, fractions: Sequence[float]) -> list[dict]:
    """Rows {fraction, ranking, other, iou}: overlap of the filters chosen by MSE with those chosen
    from null maps and by other rankings (IoU over all layers, the default budget rule)."""
    scores = {name: RANKINGS[name](evidence) for name in ("mse", *COMPARED)}
    rows = []
    for fraction in fractions:
        masks = {name: freezing.allocate(s, fraction) for name, s in scores.items()}
        rows += [
            {
                "fraction": fraction,
                "ranking": "mse",
                "other": other,
                "iou": freezing.iou(masks["mse"], masks[other]),
            }
            for other in COMPARED
        ]
    return rows


def class_overlap(scores: freezing.Scores, fraction: float) -> np.ndarray:
    """(C, C): overlap (IoU over all layers) of the top lists that each pair of classes would choose
    alone."""
    n_classes = len(next(iter(scores.values())))
    own = [
        freezing.allocate({layer: s[c : c + 1] for layer, s in scores.items()}, fraction)
        for c in range(n_classes)
    ]
    return np.array([[freezing.iou(a, b) for b in own] for a in own])


def realised_by_rule(scores: freezing.Scores, fraction: float) -> pd.DataFrame:
    """Rows {rule, nominal, layer, fraction}: what each budget rule really freezes; layer "all" is
    the whole network."""
    return pd.DataFrame(
        [
            {"rule": rule, "nominal": fraction, "layer": layer, "fraction": value}
            for rule, choose in freezing.RULES.items()
            for layer, value in freezing.realised(choose(scores, fraction)).items()
        ]
    )

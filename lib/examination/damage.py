"""Does a score tell what a filter is worth? Against the damage that ablating it does, measured."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lib.data import Task
from lib.ranking import Scores, damage

DIGITS = 6  # of a damage in nats: below it is rounding, by which filters that do nothing would rank


def damage_in_halves(
    model: nn.Module,
    task: Task,
    images: int = 50,
    measure: Callable[[nn.Module, Task, Tensor], Scores] = damage,
) -> tuple[Scores, Scores]:
    """How far each class's loss rises without each filter (see `lib.ranking.damage`), twice: on
    every other one of the class's first `images` test images, and on those between. No ranking has
    seen test images, so one that measured damage itself has no advantage."""
    unseen = task._replace(x=task.x_test, y=task.y_test)
    firsts = [(unseen.y == c).nonzero().squeeze(1)[:images] for c in range(len(task.classes))]
    if few := [task.classes[c] for c, pick in enumerate(firsts) if len(pick) < 2]:
        raise ValueError(
            f"classes {few} have fewer than two test images: expected two or more, for two halves"
        )
    first, second = (
        measure(model, unseen, torch.cat([p[start::2] for p in firsts])) for start in (0, 1)
    )
    return first, second


def rank_correlation(a_cf, b_cf) -> np.ndarray:
    """(C,): Spearman's correlation over filters, for each class, of two arrays (C, F) or (1, F);
    ties share their mean rank. 0 where one tells nothing (all its numbers are equal, or there is
    one filter only)."""
    from scipy.stats import rankdata  # half a second, which every worker would wait

    a, b = np.broadcast_arrays(np.asarray(a_cf, float), np.asarray(b_cf, float))
    a, b = (x - x.mean(1, keepdims=True) for x in (rankdata(a, axis=1), rankdata(b, axis=1)))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 0)


def predicts_damage(scores: Scores, halves: tuple[Scores, Scores]) -> list[dict]:
    """Rows {layer, spearman, ceiling} (PROTOCOL, C5): over the filters of a layer, the rank
    correlation of a score with the rise of the class's loss (mean of the two halves), and of one
    half's damage with the other's; both are means over classes.

    The ceiling is that of damage measured on half the images: a perfect score meets damage on all
    of them, which is less noisy, and may lie above it. Damage that is the same for all filters
    counts as 0."""
    rows = []
    for layer in scores:
        first, second = (np.round(half[layer], DIGITS) for half in halves)
        rows.append(
            {
                "layer": layer,
                "spearman": float(rank_correlation(scores[layer], (first + second) / 2).mean()),
                "ceiling": float(rank_correlation(first, second).mean()),
            }
        )
    return rows

"""Statistics by counting every case, and an integral by a dense grid."""

from collections.abc import Sequence
from itertools import product

import numpy as np


def sign_flip_by_all_signs(differences: Sequence[int]) -> float:
    """p of the two-sided sign-flip test (Fisher's randomisation test of pairs): the share of all
    2^n choices of signs whose sum is at least as far from 0 as the one seen.

    differences: whole numbers, so that equal sums are equal."""
    sums = [
        abs(sum(s * int(d) for s, d in zip(signs, differences)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([s >= abs(int(sum(differences))) for s in sums]))


def sign_flip_by_subsets(differences: np.ndarray) -> float:
    """The same for too many whole numbers (n,) to list their signs: counts the subsets of |d| with
    each sum, since sum of signs x d = 2 x subset - total of |d|."""
    ways = np.zeros(np.abs(differences).sum() + 1)
    ways[0] = 1
    for d in np.abs(differences):
        ways = ways + np.concatenate([np.zeros(d), ways[: len(ways) - d]])
    sums = np.abs(2 * np.arange(len(ways)) - np.abs(differences).sum())
    return ways[sums >= abs(differences.sum())].sum() / ways.sum()


def curve_distance_on_a_grid(a: np.ndarray, b: np.ndarray, points: int = 400_001) -> float:
    """Mean height of curve a above curve b over their common range of x: plain averaging of
    straight-line interpolation over a dense grid. a, b: points (n, 2) in any order, each x once."""
    a, b = (c[c[:, 0].argsort()] for c in (a, b))
    x = np.linspace(max(a[0, 0], b[0, 0]), min(a[-1, 0], b[-1, 0]), points)
    return np.mean(np.interp(x, *a.T) - np.interp(x, *b.T))

"""Similarity of two pictures by a known library's function, one pair at a time.

The libraries are imported where they are called: a process that times something else must not load
them, since they bring thread pools of their own."""

from collections.abc import Iterable

import numpy as np
import torch

# places at each edge where the window reaches beyond the map: torchmetrics mirrors the map there
# and counts them, we do not
SSIM_BORDER = 5


def negative_mse(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-learn's mean squared error of two pictures (H, W), negated: at most 0."""
    from sklearn.metrics import mean_squared_error

    return -mean_squared_error(a.ravel(), b.ravel())


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """scipy's correlation of two pictures (H, W), -1 to 1; nan where one is constant."""
    from scipy.stats import pearsonr

    return pearsonr(a.ravel(), b.ravel())[0]


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """torchmetrics' structural similarity of two pictures (H, W) in [0, 1] (Wang et al. 2004:
    Gaussian window of 11 pixels, sigma 1.5), the mean over whole windows only."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, full = structural_similarity_index_measure(
        torch.from_numpy(a)[None, None],
        torch.from_numpy(b)[None, None],
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=11,
        data_range=1.0,
        return_full_image=True,
    )
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    return float(full[0, 0, inner, inner].mean())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-learn's cosine similarity of two pictures (H, W), -1 to 1."""
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(a.reshape(1, -1), b.reshape(1, -1))[0, 0]


PAIR_METRICS = {"mse": negative_mse, "pearson": pearson, "ssim": ssim, "cosine": cosine}


def scores_by_pairs(
    maps: Iterable[np.ndarray], visualizations: Iterable[np.ndarray], metric: str
) -> np.ndarray:
    """(C, F): the library's function called for one pair after the other, in the arrays' own
    precision. maps: C arrays (H, W); visualizations: F of the same size; metric: one of
    PAIR_METRICS."""
    return np.array([[PAIR_METRICS[metric](a, b) for b in visualizations] for a in maps])

"""How alike a class map and a filter's visualization are: the paper's ranking (Feenstra & Dow 2023,
their method section), its variants, and what a map must beat.

    scores_cf = similarity(maps, visualizations, "mse")      # (C, H, W), (F, H, W) -> (C, F)
"""

from functools import partial

import torch
from torch import Tensor

from lib.kernels import ssim_pairs
from lib.ranking.registry import Evidence, Scores, ranking
from lib.saliency import scale
from lib.seeds import seed_of

# --- similarity of maps ---------------------------------------------------------------------------


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).double()


def _negative_mse(a: Tensor, b: Tensor) -> Tensor:
    a, b = _flat(a), _flat(b)
    return -((a**2).mean(1)[:, None] + (b**2).mean(1)[None] - 2 * a @ b.T / a.shape[1]).clamp_min(0)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (_flat(a), _flat(b)))
    return a @ b.T


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    return _cosine(*(x - x.mean((1, 2), keepdim=True) for x in (a.double(), b.double())))


METRICS = {"mse": _negative_mse, "pearson": _pearson, "ssim": ssim_pairs, "cosine": _cosine}


def similarity(maps: Tensor, visualizations: Tensor, metric: str = "mse") -> Tensor:
    """Similarity (C, F), float64, of every class map (C, H, W) with every heat map (F, H, W), both
    in [0, 1].

    metric: "mse" (negated mean squared error, at most 0), "pearson" and "cosine" (-1 to 1; 0 for a
    constant map), "ssim" (Wang et al. 2004, equation 13; Gaussian window of 11 pixels, sigma 1.5,
    data range 1, whole windows only). Higher = more similar."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: expected one of {', '.join(METRICS)}")
    if maps.ndim != 3 or visualizations.ndim != 3 or maps.shape[1:] != visualizations.shape[1:]:
        raise ValueError(
            f"maps {tuple(maps.shape)} and visualizations {tuple(visualizations.shape)}: expected "
            "(C, H, W) and (F, H, W) of one size"
        )
    return METRICS[metric](maps, visualizations)


# --- null maps: what a map must beat --------------------------------------------------------------


def null_maps(maps: Tensor, kind: str, seed: int = 0) -> Tensor:
    """Maps of the same shape without the class map's content: "flat" (its mean everywhere),
    "gaussian" (a centred blob, sigma a quarter of the width, scaled to [0, 1]), "permuted" (its own
    pixels shuffled), "mean" (the mean of all class maps: keeps the picture, drops the class)."""
    c, h, w = maps.shape
    if kind == "flat":
        return maps.mean((1, 2), keepdim=True).expand(c, h, w).clone()
    if kind == "gaussian":
        line = torch.exp(
            -((torch.arange(h, dtype=maps.dtype) - (h - 1) / 2) ** 2) / (2 * (h / 4) ** 2)
        )
        return scale(line[:, None] * line[None]).expand(c, h, w).clone()
    if kind == "permuted":
        shuffle = torch.randperm(
            h * w, generator=torch.Generator().manual_seed(seed_of(seed, "permuted map"))
        )
        return maps.flatten(1)[:, shuffle].view(c, h, w)
    if kind == "mean":
        return maps.mean(0, keepdim=True).expand(c, h, w).clone()
    raise ValueError(f"null map {kind!r}: expected one of {', '.join(NULL_MAPS)}")


NULL_MAPS = ("flat", "gaussian", "permuted", "mean")


# --- the rankings ---------------------------------------------------------------------------------


def by_similarity(
    evidence: Evidence, metric: str, sign: int = 1, null: str | None = None
) -> Scores:
    """(C, F): sign * similarity of the class map (or its null map) with the filter's heat map. By
    "mse" with sign 1 the paper's ranking (Feenstra & Dow 2023, their method section, no equations
    are numbered there); the other measures, the sign and null maps are ours."""
    maps = null_maps(evidence.maps, null, evidence.seed) if null else evidence.maps
    return {layer: sign * similarity(maps, heat, metric) for layer, heat in evidence.heat.items()}


def _enter(name: str, label: str, family: str = "similarity", **how) -> None:
    ranking(label, needs=("maps", "filters"), name=name, family=family)(
        partial(by_similarity, **how)
    )


_enter("mse", "MSE", metric="mse")
_enter("pearson", "Pearson", metric="pearson")
_enter("ssim", "SSIM", metric="ssim")
_enter("cosine", "cosine", metric="cosine")
_enter("bottom", "bottom (least similar)", metric="mse", sign=-1)
_enter("mse_flat", "null: flat map", "null", metric="mse", null="flat")
_enter("mse_gaussian", "null: centred blob", "null", metric="mse", null="gaussian")
_enter("mse_permuted", "null: shuffled pixels", "null", metric="mse", null="permuted")
_enter("mse_mean", "mean map of all classes", "null", metric="mse", null="mean")

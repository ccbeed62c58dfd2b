"""Maps + filter visualizations -> scores: which filters matter for which class, by one registry.

    scores = RANKINGS["mse"](evidence)            # layer -> (C, F), higher = freeze first

A new ranking is one function from Evidence to Scores, entered in RANKINGS. This room knows nothing
of freezing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from lib.data import Task
from lib.kernels import ssim_pairs
from lib.keys import seed_of
from lib.network import conv_layers
from lib.saliency import scale

Scores = dict[str, Tensor]


@dataclass
class Evidence:
    """What a ranking may look at. Maps and heat maps are fetched when first asked for: they cost
    minutes."""

    model: nn.Module
    task: Task
    seed: int
    fetch_maps: Callable[[], Tensor]  # -> (C, H, W) in [0, 1]
    fetch_heat: Callable[[], dict[str, Tensor]]  # -> layer -> (F, H, W) in [0, 1]

    @cached_property
    def maps(self) -> Tensor:
        """Class maps (C, H, W) in [0, 1]."""
        return self.fetch_maps()

    @cached_property
    def heat(self) -> dict[str, Tensor]:
        """Heat map of every filter's visualization: layer -> (F, H, W) in [0, 1]."""
        return self.fetch_heat()


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
    constant map), "ssim" (Gaussian window of 11 pixels, sigma 1.5, data range 1, whole windows
    only). Higher = more similar."""
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


# --- the registry ---------------------------------------------------------------------------------


def by_similarity(
    evidence: Evidence, metric: str, sign: int = 1, null: str | None = None
) -> Scores:
    """Score = sign * similarity of the class map (or its null map) with the filter's heat map."""
    maps = null_maps(evidence.maps, null, evidence.seed) if null else evidence.maps
    return {layer: sign * similarity(maps, heat, metric) for layer, heat in evidence.heat.items()}


def at_random(evidence: Evidence, draw: int = 0) -> Scores:
    """(1, F) uniform numbers fixed by (seed, draw, layer): the control every ranking must beat."""
    return {
        layer: torch.rand(
            1,
            conv.out_channels,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed_of(evidence.seed, "random", draw, layer)),
        )
        for layer, conv in conv_layers(evidence.model).items()
    }


RANKINGS: dict[str, Callable[..., Scores]] = {
    **{metric: partial(by_similarity, metric=metric) for metric in METRICS},
    "bottom": partial(by_similarity, metric="mse", sign=-1),
    "random": at_random,
    **{f"mse_{kind}": partial(by_similarity, metric="mse", null=kind) for kind in NULL_MAPS},
}

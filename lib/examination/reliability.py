"""Does a ranking hold when it is made again? From another visualization noise, and from the other
half of the images; and how much of it is mere brightness and contrast."""

import pandas as pd
import torch
from torch import Tensor, nn

from lib.data import Task, normalise
from lib.examination.damage import rank_correlation
from lib.network import conv_layers
from lib.ranking import similarity
from lib.saliency import choose_images, fullgrad, scale
from lib.visualization import heat_maps, maximize_activation, noise_image, to_pixels

OTHER_NOISE = 10**6  # added to the seed: noise that no seed of the study uses


def noise_reliability(
    model: nn.Module,
    task: Task,
    heat: dict[str, Tensor],
    seed: int,
    steps: int = 30,
    lr: float = 0.1,
    filters: int = 8,
) -> pd.DataFrame:
    """Rows {layer, correlation}: the same filters visualised again from other noise; mean Pearson
    correlation of the two heat maps of the first few filters. Low: the picture shows the noise it
    started from, not the filter.

    heat: layer -> (F, H, W) from the study's own noise, by the default heat-map rule, made with the
    same steps and lr."""
    rows = []
    for layer, first in heat.items():
        again = maximize_activation(
            model,
            layer,
            range(min(filters, len(first))),
            steps,
            seed + OTHER_NOISE,
            lr,
            first.shape[-1],
            task,
        )
        second = heat_maps(to_pixels(again, task)).to(first)
        pairs = similarity(first[:filters], second, "pearson").diagonal()
        rows.append({"layer": layer, "correlation": float(pairs.mean())})
    return pd.DataFrame(rows)


def heat_again(
    model: nn.Module,
    task: Task,
    layer: str,
    seed: int,
    steps: int = 30,
    lr: float = 0.1,
    size: int = 32,
    filters: int = 16,
    heat_of=lambda images, noise, task: heat_maps(to_pixels(images, task)),
) -> Tensor:
    """(n, H, W) in [0, 1]: heat maps of a layer's first `filters` filters from other noise than the
    study's. heat_of(images, noise, task): the rule, the default one if not given."""
    first, other = range(min(filters, conv_layers(model)[layer].out_channels)), seed + OTHER_NOISE
    images = maximize_activation(model, layer, first, steps, other, lr, size, task)
    return heat_of(images, noise_image(other, layer, first, size, task).to(images), task)


def maps_in_halves(
    model: nn.Module, task: Task, count: int = 100, rescaled: bool = False
) -> tuple[Tensor, Tensor]:
    """Class maps (C, H, W) twice: from every other one of the images behind the study's class map,
    and from those between (a class with a single image has the same map twice). rescaled: each
    half's mean to [0, 1] again, as the class map "rescaled" is."""
    picks, _ = choose_images(model, task, count)
    dtype, halves = next(model.parameters()).dtype, ([], [])
    for c, pick in enumerate(picks):
        targets = torch.full_like(pick, c + task.first_output)
        each = scale(fullgrad(model, normalise(task.x[pick], task, dtype), targets))
        for start, half in enumerate(halves):
            part = each[start::2] if len(each) > start else each
            half.append(part.mean(0).cpu())
    first, second = (torch.stack(half) for half in halves)
    return (scale(first), scale(second)) if rescaled else (first, second)


def mse_terms(maps: Tensor, heat: Tensor) -> dict[str, Tensor]:
    """The MSE of class maps (C, H, W) and heat maps (F, H, W) in three parts (C, F), float64, whose
    sum it is (PROTOCOL, C6): "brightness" (difference of means)^2, "contrast" (difference of
    spreads)^2, "pattern" 2 spread spread (1 - r)."""
    a, b = maps.flatten(1).double(), heat.flatten(1).double()
    means, spreads = [x.mean(1) for x in (a, b)], [x.std(1, correction=0) for x in (a, b)]
    covariance = (a - means[0][:, None]) @ (b - means[1][:, None]).T / a.shape[1]
    return {
        "brightness": (means[0][:, None] - means[1][None]).square(),
        "contrast": (spreads[0][:, None] - spreads[1][None]).square(),
        "pattern": 2 * (spreads[0][:, None] * spreads[1][None] - covariance),
    }


def shares(maps: Tensor, heat: Tensor) -> dict[str, float]:
    """Share of each part of the MSE in how filters differ: covariance over filters of the part with
    the whole, over the variance of the whole; mean over classes. They sum to 1 (to 0 where all
    filters score alike); below 0: the part pulls the other way."""
    terms = mse_terms(maps, heat)
    whole = sum(terms.values())
    apart = whole - whole.mean(1, keepdim=True)
    variance = apart.square().mean(1)
    found = {}
    for name, term in terms.items():
        together = ((term - term.mean(1, keepdim=True)) * apart).mean(1)
        share = torch.where(variance > 0, together / variance, torch.zeros_like(variance))
        found[name] = float(share.mean())
    return found


def agreement(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Rank correlation over filters, mean over classes, of the MSE ranking from two pairs (class
    maps, heat maps): of the whole, and of its pattern alone, without what brightness and contrast
    give."""
    a, b = (mse_terms(*pair) for pair in (first, second))
    whole = rank_correlation(sum(a.values()), sum(b.values())).mean()
    return float(whole), float(rank_correlation(a["pattern"], b["pattern"]).mean())


def ranking_reliability(
    maps: Tensor, heat: dict[str, Tensor], again: dict[str, Tensor], halves: tuple[Tensor, Tensor]
) -> list[dict]:
    """Rows, one a layer (PROTOCOL, C6): "noise", rank correlation of the MSE ranking over two
    noises, among the `filters` that `again` has (a few: it is dear); "images", over two halves of
    the images, among all; both for the "pattern" alone; and each part's share (see `shares`).

    maps: class maps (C, H, W); heat: layer -> (F, H, W); again: layer -> (n, H, W) of its first n
    filters from other noise; halves: from `maps_in_halves`."""
    rows = []
    for layer, first in heat.items():
        n = len(again[layer])
        noise = agreement((maps, first[:n]), (maps, again[layer]))
        images = agreement((halves[0], first), (halves[1], first))
        rows.append(
            {
                "layer": layer,
                "filters": n,
                **{"noise": noise[0], "images": images[0]},
                **{"noise_pattern": noise[1], "images_pattern": images[1]},
                **{f"share_{name}": share for name, share in shares(maps, first).items()},
            }
        )
    return rows

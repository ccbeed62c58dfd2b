"""The paper's ranking (Feenstra & Dow 2023, their method section), by MSE, with other class maps;
the visualizations stay the paper's. And with both of the network as it was before it learned
anything. What names no other paper is a variant of ours.

All maps are (C, H, W) in [0, 1]; where images are needed, they are those of the class map.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.data import normalise
from lib.hooks import evaluation
from lib.network import conv_layers
from lib.ranking.activations import BATCH, map_makers
from lib.ranking.gradients import maps_and_gradients
from lib.ranking.registry import Evidence, Scores, ranking
from lib.ranking.similarity import by_similarity, similarity
from lib.saliency import choose_images, class_maps, scale


def _by_mse(evidence: Evidence, maps: Tensor) -> Scores:
    """(C, F): similarity, by MSE, of these maps with the filters' heat maps."""
    return {layer: similarity(maps.to(heat), heat, "mse") for layer, heat in evidence.heat.items()}


# --- from the same class maps ---------------------------------------------------------------------


@ranking("class map minus mean map", needs=("maps", "filters"))
def minus_mean(evidence: Evidence) -> Scores:
    """(C, F): what sets the class map apart: class map minus the mean of all, scaled to [0, 1]."""
    return _by_mse(evidence, scale(evidence.maps - evidence.maps.mean(0)))


@ranking("class map rescaled", needs=("maps", "filters"))
def rescaled(evidence: Evidence) -> Scores:
    """(C, F): the class map scaled to [0, 1] again after the mean over images, as a visualization
    is, so that the brightness and contrast which the mean took away play no part."""
    return _by_mse(evidence, scale(evidence.maps))


@ranking("largest map of all classes", needs=("maps", "filters"))
def max_over_classes(evidence: Evidence) -> Scores:
    """(1, F): classes combined by the largest, place by place (by the mean: `mse_mean`)."""
    return _by_mse(evidence, evidence.maps.amax(0, keepdim=True))


@ranking("class map minus largest other", needs=("maps", "filters"))
def contrast(evidence: Evidence) -> Scores:
    """(C, F): class map minus the largest of the other classes', place by place, scaled to
    [0, 1]."""
    maps = evidence.maps
    others = torch.stack([torch.cat([maps[:c], maps[c + 1 :]]).amax(0) for c in range(len(maps))])
    return _by_mse(evidence, scale(maps - others))


# --- from other maps of the images ----------------------------------------------------------------


@ranking("map of one image", needs=("images", "filters"))
def one_image(evidence: Evidence) -> Scores:
    """(C, F): the FullGrad map, scaled to [0, 1], of the class's first correctly classified
    training image alone (the class's first, if none is)."""
    with evaluation(evidence.model):
        return _by_mse(evidence, class_maps(evidence.model, evidence.task, 1).maps.cpu())


@ranking("Grad-CAM", needs=("images", "filters"))
def grad_cam(evidence: Evidence) -> Scores:
    """(C, F): class maps of Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) instead of
    FullGrad: the last convolution's maps, after its batch norm and before ReLU, weighted by their
    mean gradients, summed, rectified, upsampled (bilinear)."""
    return _by_mse(evidence, cam_maps(evidence))


@ranking("input gradient", needs=("images", "filters"))
def input_gradient(evidence: Evidence) -> Scores:
    """(C, F): class maps of the gradient of the class's output at the pixels (Simonyan et al. 2014,
    section 3), mean of its size over RGB (they take the largest), instead of FullGrad."""
    return _by_mse(evidence, mean_maps(evidence, partial(_pixel_gradient, evidence)))


def mean_maps(evidence: Evidence, attribute: Callable[[Tensor, int], Tensor]) -> Tensor:
    """(C, H, W): mean over the class map's images of attribute(x, c) -> (B, H, W), each scaled to
    [0, 1]."""
    model, task = evidence.model, evidence.task
    dtype, found = next(model.parameters()).dtype, []
    with evaluation(model):
        picks, _ = choose_images(model, task, evidence.map_images)
        for c, pick in enumerate(picks):
            parts = [normalise(task.x[p], task, dtype) for p in pick.split(BATCH)]
            found.append(scale(torch.cat([attribute(x, c) for x in parts])).mean(0))
    return torch.stack(found).cpu()


def cam_maps(evidence: Evidence) -> Tensor:
    """(C, H, W): class maps of Grad-CAM."""
    last = list(conv_layers(evidence.model))[-1]
    maker = {last: map_makers(evidence.model)[last]}

    def cam(x: Tensor, c: int) -> Tensor:
        a, g = maps_and_gradients(evidence, maker, x, c, "logit")[last]
        small = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).clamp_min(0)
        return F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    return mean_maps(evidence, cam)


def _pixel_gradient(evidence: Evidence, x: Tensor, c: int) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        total = evidence.model(x)[:, evidence.task.first_output + c].sum()
    return torch.autograd.grad(total, x)[0].abs().mean(1)


# --- before anything was learned ------------------------------------------------------------------


@ranking("MSE at initialisation", needs=("initial",), family="null")
def mse_at_init(evidence: Evidence) -> Scores:
    """(C, F): the paper's ranking of the same network at its own initialisation: class maps and
    visualizations both. What a ranking owes to the network's form and its first weights."""
    return by_similarity(evidence.initial, "mse")

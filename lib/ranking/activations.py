"""What filters do on the training images: how strongly they answer to a class, and which natural
images they answer to most.

A filter's map is what its batch norm makes of it, where there is one, then rectified.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.hooks import activations, evaluation, out_of_place
from lib.network import conv_layers, norm_layers
from lib.ranking.registry import Evidence, Scores, ranking
from lib.ranking.similarity import similarity
from lib.saliency import scale

BATCH = 50  # images at once: bounds memory, not results
TOP = 9  # natural images a filter is shown by, as in Borowski et al. 2021


def map_makers(model: nn.Module) -> dict[str, nn.Module]:
    """layer -> the module whose output is the filters' maps before ReLU: the convolution's batch
    norm, else the convolution."""
    norms = norm_layers(model)
    return {layer: norms.get(layer, conv) for layer, conv in conv_layers(model).items()}


@contextmanager
def filter_maps(makers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, a forward pass fills the yielded dict: layer -> the filters' maps (B, F, h, w) before
    ReLU, with their graph. makers: from `map_makers`. What comes after works on a copy: a ReLU or a
    residual addition in place leaves them as they are."""
    with activations(makers) as seen, ExitStack() as handles:
        for maker in makers.values():
            handle = maker.register_forward_hook(lambda _m, _x, y: y.clone())
            handles.callback(handle.remove)
        yield seen


def of_each_class(task: Task) -> list[Tensor]:
    """For each class, the indices of all its training images."""
    return [(task.y == c).nonzero().squeeze(1) for c in range(len(task.classes))]


def class_means(
    evidence: Evidence,
    of_images: Callable[[Tensor, int], dict[str, Tensor]],
    picks: Sequence[Tensor] | None = None,
    batch: int | None = None,
) -> Scores:
    """layer -> (C, F), float64: the mean over each class's training images (all, or those of
    `picks`, indices for each class) of what of_images(x, c) says of every image: layer -> (B, F).

    x: normalised images (B, 3, H, W) of class c, BATCH (or `batch`) at once at most. Evaluation
    mode, nothing in place."""
    model, task, rows = evidence.model, evidence.task, []
    dtype = next(model.parameters()).dtype
    with evaluation(model), out_of_place(model):
        for c, pick in enumerate(of_each_class(task) if picks is None else picks):
            parts = [
                of_images(normalise(task.x[p], task, dtype), c) for p in pick.split(batch or BATCH)
            ]
            rows.append(
                {k: torch.cat([p[k] for p in parts]).double().mean(0).cpu() for k in parts[0]}
            )
    return {layer: torch.stack([row[layer] for row in rows]) for layer in rows[0]}


@ranking("mean activation", needs=("images",))
def mean_activation(evidence: Evidence) -> Scores:
    """(C, F): mean over the class's training images and over all places of the filter's map after
    ReLU (Molchanov et al. 2017, section 2.2, the criterion "activation"). Departs: class by class,
    and no normalisation by layer."""
    model, makers = evidence.model, map_makers(evidence.model)

    @torch.no_grad()
    def of_images(x: Tensor, c: int) -> dict[str, Tensor]:
        with filter_maps(makers) as seen:
            model(x)
        return {layer: a.clamp_min(0).mean((2, 3)) for layer, a in seen.items()}

    return class_means(evidence, of_images)


# --- natural images instead of visualizations -----------------------------------------------------


@torch.no_grad()
def natural_heat(evidence: Evidence, top: int = TOP) -> dict[str, Tensor]:
    """layer -> (F, H, W) in [0, 1]: where a filter answers in the `top` training images it answers
    to most (by the mean of its map after ReLU; ties go to the earlier image).

    Each of these maps is upsampled (bilinear, as FullGrad's) and scaled to [0, 1]; their mean is
    scaled again, as a visualization's heat map is. A filter that never answers has a map of 0."""
    model, task, makers = evidence.model, evidence.task, map_makers(evidence.model)
    best: dict[str, tuple[Tensor, Tensor]] = {}  # layer -> answers (F, k), maps (F, k, h, w)
    dtype = next(model.parameters()).dtype
    with evaluation(model):
        for part in task.x.split(BATCH):
            with filter_maps(makers) as seen:
                model(normalise(part, task, dtype))
            for layer, a in seen.items():
                best[layer] = _best(best.get(layer), a.clamp_min(0).transpose(0, 1), top)
    size = task.x.shape[-2:]
    return {layer: _overlaid(maps, size) for layer, (_, maps) in best.items()}


def _best(before: tuple[Tensor, Tensor] | None, maps: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` strongest answers and their maps among those before and maps (F, B, h, w)."""
    answers = maps.double().mean((2, 3))
    if before is not None:
        answers, maps = (torch.cat(pair, 1) for pair in zip(before, (answers, maps)))
    order = answers.argsort(dim=1, descending=True, stable=True)[:, :top]
    return answers.gather(1, order), maps[
        torch.arange(len(maps), device=order.device)[:, None], order
    ]


def _overlaid(maps: Tensor, size: torch.Size) -> Tensor:
    """(F, k, h, w) -> (F, H, W) in [0, 1]."""
    large = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    return scale(scale(large).mean(1)).cpu()


@ranking("natural images", needs=("images", "maps"), family="similarity")
def natural_patches(evidence: Evidence) -> Scores:
    """(C, F): similarity, by MSE, of the class map with where the filter answers in the natural
    images it answers to most, instead of with its visualization (Borowski et al. 2021: natural
    images tell people more of a filter than synthetic ones).

    The picture is of the filter's own maps, not of the images' brightness: a class map says where
    the network looks, and where the filter answers is said in the same terms, while a photograph's
    brightness follows its light and says nothing of the filter. Departs from Borowski: whole
    images, chosen by the mean of the map, not patches cut out around its maximum, since a class map
    covers the whole image."""
    maps = evidence.maps
    return {
        layer: similarity(maps, heat.to(maps), "mse")
        for layer, heat in natural_heat(evidence).items()
    }

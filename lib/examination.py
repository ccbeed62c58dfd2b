"""Are the explanations right? Other attributions beside FullGrad, and how far choices of filters
depend on them."""

import copy
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib import freezing
from lib.data import Task, normalise
from lib.hooks import evaluation, out_of_place
from lib.network import conv_layers
from lib.ranking import NULL_MAPS, RANKINGS, Evidence, similarity
from lib.saliency import choose_images, decompose, fullgrad, scale
from lib.visualization import heat_maps, maximize_activation, to_pixels

OTHER_NOISE = 10**6  # added to the seed: noise that no seed of the study uses
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


def example_images(model: nn.Module, task: Task) -> Tensor:
    """uint8 (C, 3, H, W): for each class the first training image that enters its class map."""
    picks, _ = choose_images(model, task, 1)
    return torch.stack([task.x[p[0]] for p in picks])


def attributions(model: nn.Module, task: Task, images: Tensor) -> dict[str, Tensor]:
    """Maps (C, H, W) in [0, 1] of uint8 images (C, 3, H, W), image c explained for class c:
    FullGrad, and Captum's input gradient (mean of |gradient| over RGB) and Grad-CAM (last
    convolution, upsampled) beside it."""
    from captum.attr import LayerGradCam, Saliency

    x = normalise(images, task)
    targets = torch.arange(len(images), device=x.device) + task.first_output
    # Captum's layer hooks need a convolution's output unharmed
    with evaluation(model), out_of_place(model):
        gradient = Saliency(model).attribute(x.clone().requires_grad_(), target=targets).mean(1)
        last = list(conv_layers(model).values())[-1]
        cam = LayerGradCam(model, last).attribute(x, target=targets, relu_attributions=True)
        cam = F.interpolate(cam, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return {
        "FullGrad": scale(fullgrad(model, x, targets)),
        "input gradient": scale(gradient.detach()),
        "Grad-CAM": scale(cam.detach()),
    }


def completeness(model: nn.Module, task: Task, images: Tensor) -> dict[str, float]:
    """Largest relative residual of FullGrad's decomposition on uint8 images (C, 3, H, W), in
    float32 and float64."""
    targets = torch.arange(len(images), device=images.device) + task.first_output
    found = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        twin = copy.deepcopy(model).to(dtype)
        found[name] = float(decompose(twin, normalise(images, task, dtype), targets).residual.max())
    return found


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


def pairings(confusion: np.ndarray, draws: int = 10_000) -> dict[str, float]:
    """Accuracy of a shared head on classes it never learned, over all pairings of classes with
    outputs.

    confusion: counts (K, K), class against output given. The mean over all K! pairings is 1/K
    exactly; `identity` is the pairing the study scores, `best` and `worst` are solved as
    assignments, `spread` is the standard deviation over random pairings (seed 0)."""
    from scipy.optimize import linear_sum_assignment

    counts = np.asarray(confusion, float)
    total, k = counts.sum(), len(counts)
    best, worst = (
        counts[linear_sum_assignment(counts, maximize=m)].sum() / total for m in (True, False)
    )
    generator = np.random.default_rng(0)
    random = [counts[np.arange(k), generator.permutation(k)].sum() / total for _ in range(draws)]
    return {
        "identity": np.trace(counts) / total,
        "mean": 1 / k,
        "spread": float(np.std(random)),
        "best": best,
        "worst": worst,
    }

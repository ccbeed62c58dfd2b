"""What a filter matters to a class's loss or output, read from gradients.

All of them look at the class's own training images, not augmented, in float32 and evaluation mode.
"Map" is a filter's map after its batch norm, where there is one, before ReLU: map times gradient is
the same before and after a ReLU.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from lib.network import conv_layers, norm_layers
from lib.ranking.activations import class_means, filter_maps, map_makers, of_each_class
from lib.ranking.registry import Evidence, Scores, ranking
from lib.saliency import effective_bias

PER_SAMPLE = 8  # images with a gradient of all weights each, at once: bounds memory, not results
CONDUCTANCE_IMAGES = 10  # of each class, the first in data set order
CONDUCTANCE_STEPS = 20


def _loss(evidence: Evidence, logits: Tensor, c: int) -> Tensor:
    """Sum over images of the cross-entropy of class c among the task's outputs."""
    own = logits[:, evidence.task.outputs]
    labels = torch.full((len(own),), c, device=own.device)
    return F.cross_entropy(own, labels, reduction="sum")


def _logit(evidence: Evidence, logits: Tensor, c: int) -> Tensor:
    """Sum over images of the class's own output."""
    return logits[:, evidence.task.first_output + c].sum()


EXPLAINED = {"loss": _loss, "logit": _logit}


def maps_and_gradients(
    evidence: Evidence, makers: dict[str, nn.Module], x: Tensor, c: int, of: str = "loss"
) -> dict[str, tuple[Tensor, Tensor]]:
    """layer -> the filters' maps (B, F, h, w) on normalised images x, and the gradient there of the
    loss, or logit, of class c (each image's own, since the sum over images is explained)."""
    x = x.detach().requires_grad_()  # so that there is a graph, whatever of the model is frozen
    with torch.enable_grad(), filter_maps(makers) as seen:
        total = EXPLAINED[of](evidence, evidence.model(x), c)
    gradients = torch.autograd.grad(total, list(seen.values()))
    return {layer: (a.detach(), g) for (layer, a), g in zip(seen.items(), gradients)}


def _by_gradient(evidence: Evidence, formula: Callable, of: str = "loss") -> Scores:
    """(C, F): mean over the class's images of formula(layer, map, gradient) -> (B, F)."""
    makers = map_makers(evidence.model)

    def of_images(x: Tensor, c: int) -> dict[str, Tensor]:
        found = maps_and_gradients(evidence, makers, x, c, of)
        return {layer: formula(layer, a, g) for layer, (a, g) in found.items()}

    return class_means(evidence, of_images)


@ranking("Taylor", needs=("images",))
def taylor(evidence: Evidence) -> Scores:
    """(C, F): |sum over places of map x gradient of the class's loss|, mean over images: how much
    the loss would change without the filter, to first order (Molchanov et al. 2017, equation 8).
    Departs: sum over places, not mean, and no normalisation by layer; within a layer both are one
    factor."""
    return _by_gradient(evidence, lambda _, a, g: (a * g).sum((2, 3)).abs())


@ranking("Fisher of the map", needs=("images",))
def fisher_map(evidence: Evidence) -> Scores:
    """(C, F): half the mean over images of (sum over places of map x gradient of the class's loss)
    squared: the Fisher information of a factor on the filter's map (Theis et al. 2018, equation
    10)."""
    return _by_gradient(evidence, lambda _, a, g: (a * g).sum((2, 3)).square() / 2)


@ranking("FullGrad per filter", needs=("images",))
def fullgrad_filter(evidence: Evidence) -> Scores:
    """(C, F): |sum over places of bias x gradient of the class's output|, mean over images: the
    filter's own bias term in FullGrad's split of the logit (Srinivas & Fleuret 2019, equation 3).
    The bias is all the constant the filter adds: the convolution's and its batch norm's."""
    norms, bias = norm_layers(evidence.model), {}
    for layer, conv in conv_layers(evidence.model).items():
        bias[layer] = torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
        if norm := norms.get(layer):
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias[layer] = effective_bias(norm) + gain * bias[layer]
        bias[layer] = bias[layer].detach()
    return _by_gradient(
        evidence, lambda layer, _, g: (g.sum((2, 3)) * bias[layer]).abs(), of="logit"
    )


# --- Fisher information of the weights ------------------------------------------------------------


def filter_parameters(model: nn.Module) -> dict[str, list[str]]:
    """layer -> the names, in `model.named_parameters()`, of its weight and, if any, its bias."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        layer: [names[p] for p in (conv.weight, conv.bias) if p is not None]
        for layer, conv in conv_layers(model).items()
    }


def per_filter(parts: dict[str, Tensor], names: list[str]) -> Tensor:
    """(B, F): what `parts` (parameter -> (B, F, ...)) holds for a layer's parameters, summed."""
    return sum(
        parts[name].flatten(2).sum(2) if parts[name].ndim > 2 else parts[name] for name in names
    )


def fisher_information(evidence: Evidence, times: dict[str, Tensor] | None = None) -> Scores:
    """(C, F): sum over a filter's weights and bias of the diagonal Fisher information, from the
    images of one class each. times: parameter -> factor (same shape) before the sum.

    Empirical: the square of each image's own gradient of -log p(its class), mean over images."""
    model = evidence.model
    names = filter_parameters(model)
    wanted = {name for own in names.values() for name in own}
    weights = {name: p.detach() for name, p in model.named_parameters() if name in wanted}

    def loss(weights: dict[str, Tensor], x: Tensor, c: int) -> Tensor:
        return _loss(evidence, functional_call(model, weights, (x[None],)), c)

    gradients = vmap(grad(loss), in_dims=(None, 0, None))

    @torch.no_grad()  # `grad` makes its own graph; none from the other parameters
    def of_images(x: Tensor, c: int) -> dict[str, Tensor]:
        squares = {name: g.square() for name, g in gradients(weights, x, c).items()}
        if times is not None:
            squares = {name: s * times[name] for name, s in squares.items()}
        return {layer: per_filter(squares, own) for layer, own in names.items()}

    return class_means(evidence, of_images, batch=PER_SAMPLE)


@ranking("Fisher", needs=("images",))
def fisher(evidence: Evidence) -> Scores:
    """(C, F): the Fisher information of the filter's weights and bias, summed (see
    `fisher_information`): what EWC holds still, filter by filter (Kirkpatrick et al. 2017, equation
    3). Departs: of the true label alone, class by class, not of all answers weighted by p."""
    return fisher_information(evidence)


# --- conductance ----------------------------------------------------------------------------------


@ranking("conductance", needs=("images",))
def conductance(evidence: Evidence) -> Scores:
    """(C, F): |conductance| of the class's output through the filter (Dhamdhere et al. 2019: their
    total conductance, summed over the pixels), mean over the class's first 10 images: the part of
    integrated gradients, from the mean image to the image in 20 steps, that flows through the
    filter's map, summed over its places. Departs: its size, so that units that speak against the
    class count too.

    The numbers of Captum's LayerConductance (its default rule), of all layers in one pass instead
    of one each, and without Captum, so that it runs where that is not installed."""
    makers = map_makers(evidence.model)
    nodes, _ = np.polynomial.legendre.leggauss(CONDUCTANCE_STEPS + 1)

    def of_images(x: Tensor, c: int) -> dict[str, Tensor]:
        total, before = {}, {}
        for alpha in ((1 + nodes) / 2).tolist():  # the mean image is 0 after normalising
            now = maps_and_gradients(evidence, makers, alpha * x, c, "logit")
            for layer, (a, g) in before.items():
                step = ((now[layer][0] - a) * g).sum((2, 3))
                total[layer] = total[layer] + step if layer in total else step
            before = now
        return {layer: t.abs() for layer, t in total.items()}

    picks = [pick[:CONDUCTANCE_IMAGES] for pick in of_each_class(evidence.task)]
    return class_means(evidence, of_images, picks)

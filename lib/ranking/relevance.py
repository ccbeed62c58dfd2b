"""Layer-wise relevance propagation (Bach et al. 2015): how much of a class's output goes back
through a filter."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.hooks import evaluation
from lib.network import VGG, conv_layers, norm_layers
from lib.ranking.activations import class_means
from lib.ranking.registry import Evidence, Scores, ranking

EPSILON = 1e-6  # keeps denominators from 0


def vgg_alone(model: nn.Module) -> None:
    """ValueError for any network but a VGG."""
    if not isinstance(model, VGG):
        raise ValueError(
            f"LRP of {type(model).__name__}: expected a VGG, whose layers follow each other"
        )


@ranking("LRP", needs=("images",), fits=vgg_alone)
def lrp(evidence: Evidence) -> Scores:
    """(C, F): sum over places of |relevance| of the filter's map for the class's output, mean over
    the class's training images, as Ede et al. 2022 choose the units that their Relevance-based
    Neural Freezing freezes.

    The composite "epsilon plus": epsilon rule in linear layers (Bach et al. 2015, equation 58),
    z-plus rule in convolutions (their equation 60 with alpha 1 and beta 0; the bias takes its
    share), winner takes all in max pooling; batch norms are folded into their convolutions first.
    The output starts with its logit. Of Ede et al. this is the choice alone, not what they do to
    weights between chosen and other units. Of VGG only: ValueError for another network, whose
    additions would need rules of their own."""
    layers = folded(evidence.model)
    names = {i: layer for i, layer in enumerate(conv_layers(evidence.model))}

    @torch.no_grad()
    def of_images(x: Tensor, c: int) -> dict[str, Tensor]:
        found = relevances(layers, x, evidence.task.first_output + c)
        return {names[i]: r.abs().sum((2, 3)) for i, r in enumerate(found)}

    return class_means(evidence, of_images)


def folded(model: nn.Module) -> list[nn.Module]:
    """A VGG's layers from first to last, each batch norm folded into its convolution (a copy)."""
    vgg_alone(model)
    convs = conv_layers(model)
    norms = {convs[layer]: norm for layer, norm in norm_layers(model).items()}
    head = [model.head] if isinstance(model.head, nn.Linear) else model.head
    with evaluation(model):
        return [
            fuse_conv_bn_eval(module, norms[module]) if module in norms else module
            for module in (*model.features, nn.Flatten(), *head)
            if not isinstance(module, (nn.BatchNorm2d, nn.Dropout))
        ]


def relevances(layers: list[nn.Module], x: Tensor, output: int) -> list[Tensor]:
    """Relevance (B, F, h, w) at the output of each convolution, first to last."""
    inputs, found = [], []
    for layer in layers:
        inputs.append(x)
        x = layer(x)
    r = torch.zeros_like(x)
    r[:, output] = x[:, output]
    for layer, a in zip(reversed(layers), reversed(inputs)):
        if isinstance(layer, nn.Conv2d):
            found.insert(0, r)
            if layer is layers[0]:
                break  # what the pixels get is not asked for
        r = _back(layer, a, r)
    return found


def _back(layer: nn.Module, a: Tensor, r: Tensor) -> Tensor:
    """Relevance of a layer's input a, given that of its output."""
    if isinstance(layer, nn.Linear):
        return _share(layer, a, r)
    if isinstance(layer, nn.Conv2d):  # its input is not negative: it was rectified
        weight, bias = layer.weight.clamp_min(0), layer.bias.clamp_min(0)
        how = layer.stride, layer.padding, layer.dilation, layer.groups
        return _share(lambda x: F.conv2d(x, weight, bias, *how), a, r)
    if isinstance(layer, nn.ReLU):
        return r
    return torch.func.vjp(layer, a)[1](r)[0]  # pooling: to the winner; flattening: back in shape


def _share(f: Callable[[Tensor], Tensor], a: Tensor, r: Tensor) -> Tensor:
    """Each input's share of r: a_i times sum over j of w_ij r_j / z_j."""
    z, back = torch.func.vjp(f, a)
    sign = torch.where(z >= 0, 1.0, -1.0).to(z)
    return a * back(r / (z + EPSILON * sign))[0]

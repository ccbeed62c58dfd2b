"""Networks: made from one description, their convolutions known by name.

    model = build(10, generator, architecture="resnet18", width=0.5)       # 10 outputs, 32 px
    conv_layers(model)           # {"conv1": Conv2d, "layer1.0.conv1": Conv2d, ...}: 20 of them
    norm_layers(model)           # the batch norm that follows each of them
    up_to(model, "layer2.0.conv1")(x)            # that convolution's output, nothing run behind it
    layer_names(architecture="vgg", depth=11)    # the names alone, without making a weight

`vgg` is the study's own network; `torchvision` has any other CNN; `layers` works on all."""

from typing import Any

import torch
from torch import nn

from lib.network.layers import below, conv_layers, norm_layers, up_to
from lib.network.torchvision import torchvision_cnn, torchvision_names
from lib.network.vgg import INITS, PLANS, VGG, initialise, vgg16

__all__ = [
    "INITS",
    "PLANS",
    "VGG",
    "below",
    "build",
    "conv_layers",
    "initialise",
    "layer_names",
    "norm_layers",
    "torchvision_names",
    "up_to",
    "vgg16",
]

VGG_ONLY = {"depth": 16, "batch_norm": False, "classifier": "linear"}  # options and defaults


def build(
    outputs: int,
    generator: torch.Generator | None = None,
    *,
    architecture: str = "vgg",
    depth: int = 16,
    width: float = 1.0,
    batch_norm: bool = False,
    image_size: int = 32,
    classifier: str = "linear",
    init: str = "study",
) -> nn.Module:
    """The network of a description, with random weights drawn from `generator` alone (seed 0 if
    None), channels_last, float32: the one place where networks are made.

    architecture "vgg": see `vgg16` for the other options. Any other is the name of one of
    torchvision's networks ("resnet18"): see `torchvision_cnn`. Those have a depth, a norm and a
    classifier of their own: ValueError for any of these options off its default."""
    if architecture == "vgg":
        return vgg16(outputs, width, batch_norm, image_size, depth, classifier, init, generator)
    given = {"depth": depth, "batch_norm": batch_norm, "classifier": classifier}
    for option, default in VGG_ONLY.items():
        if given[option] != default:
            raise ValueError(
                f"{option} {given[option]!r} for {architecture}: only vgg has this option; leave "
                f"it at its default, {default!r}"
            )
    return torchvision_cnn(architecture, outputs, width, image_size, init, generator)


def layer_names(**description: Any) -> list[str]:
    """The convolutions of the network that `build` makes of the same description, in its order; no
    weight is made (the meta device)."""
    with torch.device("meta"):
        return list(conv_layers(build(2, **description)))

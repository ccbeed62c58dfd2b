"""Activation maximisation one filter at a time, in the two ways of the repository the paper names
(pytorch-cnn-visualizations, `CNNLayerVisualization`): Adam, lr 0.1, weight decay 1e-6; the loss is
minus the mean of the filter's map.

Both take the image the search starts from, x (1, 3, H, W), normalised, and return the image after
`steps` steps, of the same shape and precision. As in that repository, every step also computes the
gradients of all weights it meets. The model is in evaluation mode."""

import torch
from torch import Tensor, nn

from lib.network import conv_layers


def without_hooks(model: nn.Module, layer: str, filter_: int, steps: int, x: Tensor) -> Tensor:
    """`visualise_layer_without_hooks`: walk through the layers, stop at the chosen one. For models
    whose `features` hold their layers in order, by name, as the study's VGG."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, weight_decay=1e-6)
    for _ in range(steps):
        adam.zero_grad()
        a = x
        for name, module in model.features.named_children():
            a = module(a)
            if name == layer:
                break
        loss = -torch.mean(a[0, filter_])
        loss.backward()
        adam.step()
    return x.detach()


def with_hooks(model: nn.Module, layer: str, filter_: int, steps: int, x: Tensor) -> Tensor:
    """`visualise_layer_with_hooks`: the whole network runs, a forward hook catches the selected
    filter's map. For any model `conv_layers` can name."""
    caught = {}
    # cloned: the in-place ReLU that follows would overwrite it
    handle = conv_layers(model)[layer].register_forward_hook(
        lambda m, i, o: caught.update(map=o[0, filter_].clone())
    )
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, weight_decay=1e-6)
    for _ in range(steps):
        adam.zero_grad()
        model(x)
        (-caught["map"].mean()).backward()
        adam.step()
    handle.remove()
    return x.detach()

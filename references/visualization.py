"""Activation maximisation one filter at a time, in the two ways of the repository the paper names
(pytorch-cnn-visualizations, `CNNLayerVisualization`)."""

import torch

from lib.network import conv_layers


def without_hooks(model, layer, filter_, steps, x):
    """pytorch-cnn-visualizations' `visualise_layer_without_hooks`: walk through the layers, stop at
    the chosen one."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, weight_decay=1e-6)
    for _ in range(steps):
        adam.zero_grad()
        a = x
        for name, module in model.features.named_children():
            a = module(a)
            if name == layer:
                break
        (-a[0, filter_].mean()).backward()
        adam.step()
    return x.detach()


def with_hooks(model, layer, filter_, steps, x):
    """`visualise_layer_with_hooks`: the whole network runs, a forward hook catches the selected
    filter's map."""
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

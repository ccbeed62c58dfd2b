"""What a network's layers are given and give, seen by running it whole."""

import torch
from torch import Tensor, nn

from lib.hooks import activations, out_of_place
from lib.network import conv_layers


def inputs_and_outputs(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Convolution's name -> what entered and what left it, as hooks on one run of the whole network
    see them; without gradients."""
    seen = {}

    def keep(layer):  # cloned: what follows may work in place
        return lambda m, i, o: seen.update({layer: (i[0].clone(), o.clone())})

    handles = [c.register_forward_hook(keep(layer)) for layer, c in conv_layers(model).items()]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


def norms_by_running(model: nn.Module, x: Tensor) -> dict[str, nn.BatchNorm2d]:
    """Convolution's name -> the batch norm that is given the very tensor the convolution made."""
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    with (
        out_of_place(model),
        activations(conv_layers(model)) as made,
        activations(norms, "input") as taken,
    ):
        model(x)
    return {layer: norms[name] for layer, y in made.items() for name, t in taken.items() if t is y}

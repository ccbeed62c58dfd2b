"""Look into a network for a while. Every hook here is a context manager: it cannot leak, also when
the body raises.

    with evaluation(model):                            # afterwards every module's own mode is back
        logits = model(x)
    with activations(conv_layers(model)) as seen:      # layer -> its output
        model(x)
    with activations({"it": conv}, "input", stop=True) as seen:
        model(x)                                       # ends as soon as `it` is reached
    with output_gradients({"it": conv}) as gradients:  # layer -> gradient at its output
        model(x).sum().backward()
    with evaluation(model), out_of_place(model):       # for hooks that keep an output as it was
        ...
    with evaluation(model), plain_norms(model):        # for vmap on a GPU
        ...

Layers are given as a dict from any names to modules, as `lib.network.conv_layers` returns it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside; afterwards every module is in the mode it was in, also where modes
    were mixed (a network in training with its batch norm in evaluation)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def out_of_place(model: nn.Module) -> Iterator[nn.Module]:
    """No module works in place inside (ReLU, dropout, ...): a layer's output stays what it was when
    the next layer has used it. Residual additions and functional calls are not modules."""
    inplace = [module for module in model.modules() if getattr(module, "inplace", False)]
    for module in inplace:
        module.inplace = False
    try:
        yield model
    finally:
        for module in inplace:
            module.inplace = True


@contextmanager
def plain_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, batch norm with running statistics is a factor and a summand for each channel, as in
    evaluation mode: for `torch.func.vmap` on a GPU, where PyTorch's own (2.11) asks a mapped tensor
    in channels_last for its memory format and ends in "not yet implemented"."""
    norms = [
        m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.running_var is not None
    ]
    for norm in norms:
        factor = torch.rsqrt(norm.running_var + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight
        summand = -norm.running_mean * factor
        summand = summand if norm.bias is None else summand + norm.bias
        norm.forward = partial(_scaled, factor.view(-1, 1, 1), summand.view(-1, 1, 1))
    try:
        yield model
    finally:
        for norm in norms:
            del norm.forward


def _scaled(factor: Tensor, summand: Tensor, x: Tensor) -> Tensor:
    return x * factor + summand


class _Enough(Exception):
    """Leaves a forward pass in which everything asked for has been seen."""


@contextmanager
def activations(
    layers: Mapping[str, nn.Module], at: str = "output", stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Inside, a forward pass fills the yielded dict: layer -> the very tensor at its "output" (or
    its first "input"), with its graph. A layer that runs twice keeps the later tensor.

    stop: once all layers have been seen, the forward pass ends, and with it the body. Without it, a
    module that works in place may change a tensor after it was seen: see `out_of_place`. Raises
    ValueError for another `at`."""
    if at not in ("output", "input"):
        raise ValueError(f"activations at {at!r}: expected output or input")
    seen: dict[str, Tensor] = {}
    enough = _Enough()

    def keep(name: str, tensor: Tensor) -> None:
        seen[name] = tensor
        if stop and len(seen) == len(layers):
            raise enough

    with ExitStack() as handles:
        for name, module in layers.items():
            if at == "output":
                handle = module.register_forward_hook(lambda _m, _x, y, name=name: keep(name, y))
            else:
                handle = module.register_forward_pre_hook(lambda _m, x, name=name: keep(name, x[0]))
            handles.callback(handle.remove)
        try:
            yield seen
        except _Enough as signal:
            if signal is not enough:  # of a block around this one
                raise


@contextmanager
def output_gradients(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, a backward pass fills the yielded dict: layer -> gradient of the explained scalar at
    its output.

    The hook sits on the output tensor, not on the module, so that what works in place after it
    (ReLU, a residual addition) does no harm: the gradient is that of the output as it was."""
    gradients: dict[str, Tensor] = {}

    def watch(name: str, output: Tensor) -> None:
        output.register_hook(lambda gradient: gradients.__setitem__(name, gradient))

    with ExitStack() as handles:
        for name, module in layers.items():
            handle = module.register_forward_hook(lambda _m, _x, y, name=name: watch(name, y))
            handles.callback(handle.remove)
        yield gradients

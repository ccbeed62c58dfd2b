"""Judge a mask without training: put its filters of the fine-tuned network back to what they were
(Panigrahi et al. 2023 graft the other way: few fine-tuned weights onto the network before).

    with grafted(model, before, masks):         # model: fine-tuned; before: its state_dict() then
        acc1 = evaluate(model, task1)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib import freezing
from lib.data import Task
from lib.evaluation import evaluate
from lib.network import conv_layers, norm_layers


@contextmanager
def grafted(
    model: nn.Module, before: Mapping[str, Tensor], masks: freezing.Masks, scope: str = "weights"
) -> Iterator[nn.Module]:
    """Inside, the filters of the masks (layer -> bool (F,)) have the weights and biases of `before`
    (named as in `model.state_dict()`); with scope "filter" their batch norm too, statistics
    included. Afterwards every bit is as it was."""
    if scope not in freezing.SCOPES:
        raise ValueError(f"scope {scope!r}: expected weights or filter")
    convs, norms, names = conv_layers(model), norm_layers(model), {}
    for name, module in model.named_modules():
        names[module] = name
    after = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        with torch.no_grad():
            own = model.state_dict()
            for layer, mask in masks.items():
                parts = [
                    convs[layer],
                    *([norms[layer]] if scope == "filter" and layer in norms else []),
                ]
                for part in parts:
                    for key, value in part.state_dict().items():
                        if value.ndim:  # the count of batches is no filter's
                            full = f"{names[part]}.{key}"
                            chosen = mask.to(value.device)
                            own[full][chosen] = before[full].to(value)[chosen]
        yield model
    finally:
        model.load_state_dict(after)


def judge(
    model: nn.Module,
    before: Mapping[str, Tensor],
    tasks: Sequence[Task],
    masks: freezing.Masks,
    scope: str = "weights",
    precision: str = "float32",
) -> dict[str, float]:
    """{"acc1", "acc2", ...}: test accuracy on every task with the masks' filters put back. What
    round 2 might have done had they been frozen all along is not in it: the other filters learned
    beside the changed ones."""
    with grafted(model, before, masks, scope):
        return {f"acc{k}": evaluate(model, t, precision) for k, t in enumerate(tasks, 1)}

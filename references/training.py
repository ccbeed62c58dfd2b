"""Training written out: what `lib.training.fit` must do, step by step."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task
from lib.recipe import Recipe
from lib.seeds import seed_of
from references.data import augment_one_by_one


def sgd_by_hand(
    model: nn.Module, task: Task, recipe: Recipe, seed: int
) -> tuple[list[float], dict[str, Tensor]]:
    """SGD with momentum and weight decay in formulas (as `torch.optim.SGD` documents them), images
    augmented one by one, float64.

    v <- momentum v + gradient + weight_decay w;  w <- w - lr v. Only whole batches; order and crops
    are drawn as `fit` draws them. Returns each epoch's mean loss and omega: parameter -> the path
    integral - sum over steps of gradient x change (Zenke et al. 2017, equation 3). The trained
    weights are left in the model."""
    order, crops = (
        torch.Generator().manual_seed(seed_of(seed, task.name, use)) for use in ("order", "crops")
    )
    b, steps = recipe.batch_size, len(task.x) // recipe.batch_size
    velocity = {k: torch.zeros_like(v) for k, v in model.named_parameters()}
    omega, losses = {k: torch.zeros_like(v) for k, v in model.named_parameters()}, []
    model.train()
    for _ in range(recipe.epochs):
        shuffled, total = torch.randperm(len(task.x), generator=order).tolist(), 0.0
        for step in range(steps):
            picks = shuffled[step * b : (step + 1) * b]
            x = augment_one_by_one(  # (B, 3, H, W)
                task.x[picks], task, crops, recipe.crop_padding, True, torch.float64
            )
            loss = F.cross_entropy(model(x)[:, task.outputs], task.y[picks])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for (k, weight), gradient in zip(model.named_parameters(), gradients):
                    velocity[k] = (
                        recipe.momentum * velocity[k] + gradient + recipe.weight_decay * weight
                    )
                    weight -= recipe.lr * velocity[k]
                    omega[k] += gradient * recipe.lr * velocity[k]
            total += loss.item() / steps
        losses.append(total)
    return losses, omega

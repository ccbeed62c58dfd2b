"""Penalties written out: one image, one label, one parameter at a time, with no vector and no vmap.

Everything is in the parameters' own precision; call with float64.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.recipe import Recipe


def log_p_gradient(model: nn.Module, task: Task, image: Tensor, label: int) -> dict[str, Tensor]:
    """Gradient of log p(label | image) over the task's outputs, in the mode the model is in."""
    dtype = next(model.parameters()).dtype
    logits = model(normalise(image[None], task, dtype))[0, task.outputs]
    gradients = torch.autograd.grad(logits.log_softmax(0)[label], list(model.parameters()))
    return dict(zip((name for name, _ in model.named_parameters()), gradients))


def fisher(model: nn.Module, task: Task, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Mean over images of sum over y of p(y | x) (d log p(y | x))^2; of one given label for each
    image if there are labels (N,). Evaluation mode."""
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for n, image in enumerate(task.x):
        with torch.no_grad():
            dtype = next(model.parameters()).dtype
            p = model(normalise(image[None], task, dtype))[0, task.outputs].softmax(0)
        for y in range(len(task.classes)):
            weight = p[y] if labels is None else float(labels[n] == y)
            for name, g in log_p_gradient(model, task, image, y).items():
                total[name] += weight * g * g / len(task.x)
    return total


def quadratic(model: nn.Module, old: dict[str, Tensor], importance: dict[str, Tensor]) -> Tensor:
    """Sum over parameters of importance x (theta - theta_old)^2."""
    total = torch.zeros((), dtype=next(model.parameters()).dtype)
    for name, p in model.named_parameters():
        total = total + (importance[name] * (p - old[name]) ** 2).sum()
    return total


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(model: nn.Module, task: Task, recipe: Recipe, penalty=None) -> dict[str, Tensor]:
    """Full-batch SGD with momentum on un-augmented images, one step an epoch. penalty(model) is
    added to the cross-entropy. Returns the path integral - sum of (gradient of the cross-entropy
    alone) x change."""
    dtype, names = next(model.parameters()).dtype, [name for name, _ in model.named_parameters()]
    x, velocity = normalise(task.x, task, dtype), None
    omega = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model.train()
    for _ in range(recipe.epochs):
        loss = F.cross_entropy(model(x)[:, task.outputs], task.y)
        own = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        whole = own
        if penalty is not None:
            whole = torch.autograd.grad(loss + penalty(model), list(model.parameters()))
        with torch.no_grad():
            velocity = velocity or [torch.zeros_like(g) for g in own]
            for name, p, g, g_whole, v in zip(names, model.parameters(), own, whole, velocity):
                v.mul_(recipe.momentum).add_(g_whole + recipe.weight_decay * p)
                change = -recipe.lr * v
                p += change
                omega[name] -= g * change
    return omega


def ewc(model: nn.Module, tasks: list[Task], recipe: Recipe, strength: float) -> None:
    """Rounds 2, 3, ... of EWC with the exact Fisher information, from a network that knows task
    1."""
    importance = None
    for learned, task in zip(tasks, tasks[1:]):
        found, old = fisher(model, learned), weights(model)
        importance = importance or {name: torch.zeros_like(f) for name, f in found.items()}
        for name, f in found.items():
            importance[name] += f
        train(model, task, recipe, lambda m: strength / 2 * quadratic(m, old, importance))


def si(
    model: nn.Module, tasks: list[Task], recipe: Recipe, strength: float, damping: float
) -> dict[str, Tensor]:
    """All rounds of Synaptic Intelligence from the initial network. Returns the last Omega used."""
    importance = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    start = weights(model)
    omega = train(model, tasks[0], recipe)
    for task in tasks[1:]:
        old = weights(model)
        for name in importance:
            gone = old[name] - start[name]
            importance[name] = importance[name] + omega[name] / (gone**2 + damping)
            importance[name] = torch.where(importance[name] < 0, 0.0, importance[name])
        used = dict(importance)
        omega = train(model, task, recipe, lambda m: strength * quadratic(m, old, used))
        start = old
    return importance


def stiffness(scores_cf: Tensor, classes: str) -> list[float]:
    """Each filter's place among its layer's, class by class: 0 the lowest, 1 the highest, filters
    of one score in the middle of their places; mean or max over the classes."""
    n_classes, filters = scores_cf.shape
    found = []
    for f in range(filters):
        places = []
        for c in range(n_classes):
            row = sorted(scores_cf[c].tolist())
            mine = [i for i, score in enumerate(row) if score == float(scores_cf[c, f])]
            places.append(sum(mine) / len(mine) / (filters - 1) if filters > 1 else 0.5)
        found.append(max(places) if classes == "max" else sum(places) / len(places))
    return found


def soft_penalty(
    model: nn.Module,
    old: dict[str, Tensor],
    stiffness: dict[str, list[float]],
    importance: dict[str, Tensor],
    also: dict[str, str],
) -> float:
    """Sum over filters, and over each filter's numbers, of s x importance x (theta - theta_old)^2.
    stiffness: name of a convolution -> one number a filter; also: name of a convolution -> name of
    the batch norm held with it."""
    total, now = 0.0, dict(model.named_parameters())
    for layer, s in stiffness.items():
        owners = [layer, *([also[layer]] if layer in also else [])]
        for owner in owners:
            for name in (f"{owner}.weight", f"{owner}.bias"):
                for f, s_f in enumerate(s):
                    change = now[name][f] - old[name][f]
                    total += (s_f * importance[name][f] * change**2).sum().item()
    return total

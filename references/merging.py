"""Merging, literally: one weight, one filter, one image and one label at a time."""

import torch
from torch import Tensor, nn

from lib.data import Task, normalise


def straight_line(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """(1 - weight) start + weight end, number by number."""
    pairs = zip(start.flatten().tolist(), end.flatten().tolist())
    return torch.tensor(
        [(1 - weight) * a + weight * b for a, b in pairs], dtype=start.dtype
    ).view_as(start)


def fisher_average(
    start: Tensor, first: Tensor, end: Tensor, second: Tensor, weight: float
) -> Tensor:
    """((1 - w) F1 start + w F2 end) / ((1 - w) F1 + w F2), number by number; the straight line
    where both Fishers are 0."""
    merged = []
    for a, f, b, g in zip(*(t.flatten().tolist() for t in (start, first, end, second))):
        old, new = (1 - weight) * f, weight * g
        if old + new == 0:
            old, new = 1 - weight, weight
        merged.append((old * a + new * b) / (old + new))
    return torch.tensor(merged, dtype=start.dtype).view_as(start)


def fisher(model: nn.Module, task: Task, images: int) -> dict[str, Tensor]:
    """Parameter -> mean over images of sum over labels y of p(y) (d log p(y) / d theta)^2, in
    evaluation mode."""
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for n in range(images):
        x = normalise(task.x[n : n + 1], task, next(model.parameters()).dtype)
        for y in range(len(task.classes)):
            log_p = model(x)[0, task.outputs].log_softmax(0)
            gradients = torch.autograd.grad(log_p[y], list(model.parameters()), allow_unused=True)
            for t, g in zip(total.values(), gradients):
                t += float(log_p[y].detach().exp()) * g**2 / images
    return total


def kept(scores: list[list[float]], mean: float) -> list[float]:
    """Share of the start of every filter; scores: a row for each class. No two scores of a row and
    no two mean places may be equal."""
    filters = len(scores[0])
    mean_place = [
        sum(sum(other < row[f] for other in row) for row in scores) / len(scores)
        for f in range(filters)
    ]
    place = [sum(other < own for other in mean_place) for own in mean_place]
    reach = min(mean, 1 - mean)
    return [mean - reach + reach * (2 * p + 1) / filters for p in place]

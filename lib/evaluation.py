"""What a network answers, and how often it is right.

evaluate(model, task)                    # top-1 accuracy on the task's test images, 0 to 1
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.hooks import evaluation
from lib.precision import autocast

EVALUATION_BATCH = 500


@torch.no_grad()
def predict(
    model: nn.Module,
    task: Task,
    x: Tensor,
    precision: str = "float32",
    seen: dict | None = None,
) -> Tensor:
    """Logits (N, all outputs) of uint8 images (N, 3, H, W) in evaluation mode; the model's mode is
    put back.

    seen: keeps the features of each batch between calls, for a model (with `features` and `head`)
    whose features stay as they are.
    """

    def logits(part: Tensor, number: int) -> Tensor:
        if seen is None:
            return model(normalise(part, task, dtype))
        if (task.name, number) not in seen:
            seen[task.name, number] = model.features(normalise(part, task, dtype)).flatten(1)
        return model.head(seen[task.name, number])

    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    with evaluation(model), autocast(precision, device):
        parts = [logits(part, i).to(dtype) for i, part in enumerate(x.split(EVALUATION_BATCH))]
    return torch.cat(parts)


def evaluate(
    model: nn.Module, task: Task, precision: str = "float32", seen: dict | None = None
) -> float:
    """Top-1 accuracy in [0, 1] on the task's test images, over the task's own outputs. seen: see
    `predict`."""
    return float(measure(model, task, precision, seen=seen)["accuracy"])


def measure(
    model: nn.Module,
    task: Task,
    precision: str = "float32",
    part: str = "test",
    seen: dict | None = None,
) -> dict[str, float]:
    """Accuracy in [0, 1] and mean cross-entropy (nats) on the task's "test" or "train" images (not
    augmented). seen: see `predict`."""
    x, y = (task.x_test, task.y_test) if part == "test" else (task.x, task.y)
    logits = predict(model, task, x, precision, seen)[:, task.outputs]
    return {
        "accuracy": float((logits.argmax(1) == y).double().mean()),
        "loss": float(F.cross_entropy(logits, y)),
    }


def confusion(model: nn.Module, task: Task, precision: str = "float32") -> Tensor:
    """int64 (K, outputs of the task): test images of each class given to each output."""
    n_classes = len(task.classes)
    answers = predict(model, task, task.x_test, precision)[:, task.outputs].argmax(1)
    pairs = torch.bincount(task.y_test * n_classes + answers, minlength=n_classes**2)
    return pairs.view(n_classes, n_classes).cpu()

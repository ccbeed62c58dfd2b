"""What is left of a task in a network, and in which part of it: other pairings of a shared head,
parts put back, a linear probe."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.evaluation import EVALUATION_BATCH, evaluate
from lib.hooks import activations, evaluation


def pairings(confusion: np.ndarray, draws: int = 10_000) -> dict[str, float]:
    """Accuracy of a shared head on classes it never learned, over all pairings of classes with
    outputs.

    confusion: counts (K, K), class against output given. The mean over all K! pairings is 1/K
    exactly; `identity` is the pairing the study scores, `best` and `worst` are solved as
    assignments, `spread` is the standard deviation over random pairings (seed 0)."""
    from scipy.optimize import linear_sum_assignment

    counts = np.asarray(confusion, float)
    total, k = counts.sum(), len(counts)
    best, worst = (
        counts[linear_sum_assignment(counts, maximize=m)].sum() / total for m in (True, False)
    )
    generator = np.random.default_rng(0)
    random = [counts[np.arange(k), generator.permutation(k)].sum() / total for _ in range(draws)]
    return {
        "identity": np.trace(counts) / total,
        "mean": 1 / k,
        "spread": float(np.std(random)),
        "best": best,
        "worst": worst,
    }


# --- the head, or the features? -------------------------------------------------------------------


def head_of(model: nn.Module) -> str:
    """The dotted name of the last linear layer, which gives the logits."""
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]


def put_back(model: nn.Module, before: Mapping[str, Tensor], *parts: str) -> nn.Module:
    """A copy of the model with parts of an earlier state (named as in `model.state_dict()`) put
    back: "head" (its last linear layer), "statistics" (all running means and variances of batch
    norm)."""
    twin = copy.deepcopy(model)
    head = head_of(model)
    wanted = {
        "head": lambda name: name.startswith(f"{head}."),
        "statistics": lambda name: name.endswith(("running_mean", "running_var")),
    }
    if unknown := set(parts) - set(wanted):
        raise ValueError(f"parts {sorted(unknown)}: expected some of {', '.join(wanted)}")
    state = twin.state_dict()
    for part in parts:
        state |= {name: before[name] for name in state if wanted[part](name)}
    twin.load_state_dict(state)
    return twin


@torch.no_grad()
def features(model: nn.Module, task: Task, x: Tensor) -> Tensor:
    """(N, D), float32, on the processor: what enters the head for uint8 images (N, 3, H, W), in
    evaluation mode."""
    head, dtype = {"head": model.get_submodule(head_of(model))}, next(model.parameters()).dtype
    found = []
    with evaluation(model):
        for part in x.split(EVALUATION_BATCH):
            with activations(head, "input", stop=True) as seen:
                model(normalise(part, task, dtype))
            found.append(seen["head"].float().cpu())
    return torch.cat(found)


def linear_probe(model: nn.Module, task: Task, ridge: float = 1e-2) -> float:
    """Test accuracy of a new linear layer on the model's features (Davari et al. 2022): what a head
    could still read of the task.

    Least squares onto the classes (1 for the own, 0 for the others) with a ridge penalty, of
    features standardised by the training images: solved exactly, so nothing is drawn and nothing is
    tuned. Departs from Davari, who train the layer by SGD."""
    x, x_test = (features(model, task, images).double() for images in (task.x, task.x_test))
    mean, spread = x.mean(0), x.std(0, correction=0)
    x, x_test = ((f - mean) / spread.clamp_min(1e-8) for f in (x, x_test))
    targets = F.one_hot(task.y.cpu(), len(task.classes)).double()
    shift = targets.mean(0)
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x.T @ (targets - shift))
    answers = (x_test @ weights + shift).argmax(1)
    return float((answers == task.y_test.cpu()).double().mean())


def readouts(
    model: nn.Module, before: Mapping[str, Tensor], task: Task, precision: str = "float32"
) -> dict[str, float]:
    """What of the old task is left, and where: its test accuracy as the model is ("as it is"), with
    the old head put back, with the old batch-norm statistics, with both, and by a linear probe.
    before: the state after the old task."""
    changed = {"head": ("head",), "statistics": ("statistics",), "both": ("head", "statistics")}
    found = {"as it is": evaluate(model, task, precision)}
    for name, parts in changed.items():
        found[f"{name} put back"] = evaluate(put_back(model, before, *parts), task, precision)
    return {**found, "linear probe": linear_probe(model, task)}

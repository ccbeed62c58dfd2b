"""Methods that pull weights back to where they were, by how important they were for what was
learned before.

    EWC(strength=100.0, fisher="exact")     # importance: the Fisher information
    SI(strength=1.0, damping=0.1)           # importance: what a weight's way brought the loss
    L2(strength=0.1)                        # no importance: the control of both

Each adds the same quadratic penalty, `Pull`; they differ in the importance alone.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.evaluation import predict
from lib.hooks import evaluation
from lib.methods.options import check_choice, check_count, check_number
from lib.methods.registry import Context, method
from lib.recipe import Recipe
from lib.seeds import seed_of
from lib.training import Method

FISHERS = ("exact", "sampled", "empirical")  # whose labels the Fisher information is taken over
AT_ONCE = 16  # images whose own gradients are made together: more gain nothing on a processor
CHUNK = 2**28  # numbers in those gradients at most: 1 GB in float32


class RecordPath(Method):
    """Synaptic Intelligence's path integral (Zenke et al. 2017, equation 3) along training,
    recorded, never used: omega = - sum over steps of gradient x change. Reads only, so training's
    bits are the same with it or without."""

    steady = True  # the hooks only launch work

    def __init__(self):
        self.omega: dict[str, Tensor] = {}

    def before(self, model: nn.Module, task: Task, context: Any = None) -> None:
        self.omega = {k: torch.zeros_like(p) for k, p in model.named_parameters()}

    def after_backward(self, model):
        # cloned, not aliased: on a CPU a detached alias would follow the step and make every change
        # zero
        self.old = {k: p.detach().clone() for k, p in model.named_parameters()}

    @torch.no_grad()
    def after_step(self, model):
        for k, p in model.named_parameters():
            if p.grad is not None:
                self.omega[k].addcmul_(p.grad, p.detach() - self.old[k], value=-1)


# --- the penalty they share -----------------------------------------------------------------------


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of the tensors in one new vector (P,); gradients flow back through it."""
    return torch.cat([t.reshape(-1) for t in tensors])


@dataclass
class Pull(Method):
    """Cross-entropy + factor / 2 x strength x sum of importance x (theta - theta_old)^2, over all
    parameters (batch norm's gamma and beta too, its running statistics not). theta_old: the weights
    as they entered the round.

    A subclass sets `factor` as its paper writes the penalty, and calls `hold` before the round.
    The penalty is computed in the parameters' own precision, under autocast too.
    """

    strength: float = 1.0
    rows: list[dict] = field(default_factory=list, repr=False, init=False)

    steady = True  # the hooks only launch work
    factor = 1.0  # 1: the penalty is written with one half before it; 2: without

    def __post_init__(self):
        check_number("strength", self.strength)

    def hold(self, model: nn.Module, importance: Tensor, context: Context) -> None:
        """Pull towards the weights as they are now. importance: (P,), at least 0.

        Raises FloatingPointError if an importance is not finite, or if SGD must run away: a
        parabola of curvature h throws it ever farther off where lr (h + weight decay) > 2 (1 +
        momentum)."""
        largest = float(importance.max())
        if not math.isfinite(largest):
            raise FloatingPointError(
                f"{self.label}: the largest importance is {largest}; expected finite ones: is the "
                "network's loss on the task it learned finite?"
            )
        limit = self.limit(largest, context.recipe)
        if self.strength > limit:
            r = context.recipe
            raise FloatingPointError(
                f"{self.label}, strength {self.strength:g}: the largest importance is "
                f"{largest:.3g}, and SGD with lr {r.lr:g}, momentum {r.momentum:g} would run away "
                f"from the old weights; the largest strength that works is {0.995 * limit:.3g}"
            )
        self.anchor = flat(model.parameters()).detach()
        self.curvature = self.factor * self.strength * importance.to(self.anchor)
        self.rows.append(
            {
                "round": context.round,
                "strength": self.strength,
                "largest_importance": largest,
                "mean_importance": float(importance.mean()),
                "largest_strength": limit if math.isfinite(limit) else None,
            }
        )

    def limit(self, largest: float, recipe: Recipe) -> float:
        """The strength above which SGD must run away, given the largest importance."""
        steepest = 2 * (1 + recipe.momentum) / recipe.lr - recipe.weight_decay
        return steepest / (self.factor * largest) if largest > 0 else math.inf

    def penalty(self, model, x, y, outputs):
        change = flat(model.parameters()) - self.anchor
        return 0.5 * torch.dot(self.curvature * change, change)

    def records(self):
        return {"pulls": self.rows}


# --- elastic weight consolidation -----------------------------------------------------------------


@torch.no_grad()
def fisher(
    model: nn.Module, task: Task, how: str = "exact", images: int | None = None, seed: int = 0
) -> Tensor:
    """Diagonal of the Fisher information (P,), in the order of `model.parameters()`: the mean over
    the task's training images x of (d log p(y | x) / d theta)^2.

    p is the softmax over the task's own outputs. how: "exact": summed over all labels y, each
    weighted by p(y | x); "sampled": one y drawn from p(y | x) for each image, by a generator fixed
    by (seed, task name); "empirical": y is the image's own label (not the Fisher information, but
    often called so). Gradients are of single images (the square of a batch's mean gradient is far
    too small), in evaluation mode, un-augmented, in the parameters' own precision. images: only so
    many, the first in data-set order (None: all); mind a data set that is sorted by class. The
    model's mode and gradients stay as they were. Costs some four training steps' work an image, and
    "exact" that once for each class.
    """
    x, y = task.x[:images], task.y[:images]
    theta = {name: p.detach() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    dtype = next(iter(theta.values())).dtype
    chunk = max(1, min(AT_ONCE, CHUNK // sum(p.numel() for p in theta.values())))

    def log_p(theta: dict[str, Tensor], image: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, theta, image[None])[:, task.outputs]
        # squared, the root of the weight is the weight
        return -weight.sqrt() * F.cross_entropy(outputs, label[None])

    gradients = torch.func.vmap(torch.func.grad(log_p), in_dims=(None, 0, 0, 0))
    with evaluation(model):
        p_nk = predict(model, task, x)[:, task.outputs].softmax(1)
        for labels, weights in _answers(p_nk, y, how, seed_of(seed, task.name, "fisher")):
            for part in zip(x.split(chunk), labels.split(chunk), weights.split(chunk)):
                found = gradients(theta, normalise(part[0], task, dtype), *part[1:])
                for name, g in found.items():  # g: (chunk, *shape of the parameter)
                    total[name] += g.square_().sum(0)
    return flat(total.values()) / len(x)


def _answers(p_nk: Tensor, y: Tensor, how: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels (N,) to take gradients for, and their weights (N,)."""
    if how == "exact":
        for k in range(p_nk.shape[1]):
            yield torch.full_like(y, k), p_nk[:, k]
    elif how == "sampled":  # drawn on the CPU, so that a seed means the same on every device
        generator = torch.Generator().manual_seed(seed)
        drawn = p_nk.cpu().double().multinomial(1, generator=generator)[:, 0]
        yield drawn.to(y.device), torch.ones_like(p_nk[:, 0])
    else:
        yield y, torch.ones_like(p_nk[:, 0])


@method("EWC", keeps="importances")
@dataclass
class EWC(Pull):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, equation 3): cross-entropy + strength
    / 2 x sum of F (theta - theta_old)^2, F the diagonal Fisher information (see `fisher`).

    Kept between tasks: the old weights and one importance for each, as `keeps` says, and no image.
    F is made as the next round begins, from images of the task learned last, which are needed until
    then; since the network is still as that task left it, F could as well be made when the task
    ends. Over more than two tasks the importances of all rounds are summed and the anchor is the
    latest weights: online EWC (Schwarz et al. 2018) without decay, where Kirkpatrick et al. keep an
    anchor for each task.

    strength: the paper's lambda, at least 0; it is not portable between estimators of F. fisher:
    "exact", "sampled" or "empirical"; images: so many training images of the old task, the first in
    data-set order (None: all)."""

    strength: float = 100.0
    fisher: str = "exact"
    images: int | None = None
    importance = None  # (P,), summed over the rounds so far

    def __post_init__(self):
        super().__post_init__()
        check_choice("fisher", self.fisher, FISHERS)
        check_count("images", self.images, or_none=True)

    def before(self, model, task, context):
        learned = context.tasks[context.round - 2]
        found = fisher(model, learned, self.fisher, self.images, context.seed)
        self.importance = found if self.importance is None else self.importance + found
        self.hold(model, self.importance, context)


# --- the control ----------------------------------------------------------------------------------


@method("L2 to the start", keeps="weights")
@dataclass
class L2(Pull):
    """Cross-entropy + strength x sum of (theta - theta_old)^2: EWC's control, every weight as
    important as any other (Hsu et al. 2018, among their simple baselines). Written without EWC's
    one half.

    Kept between tasks: the old weights. Over more than two tasks the anchor is the latest weights
    and the strength stays what it is. strength: at least 0."""

    factor = 2.0

    def before(self, model, task, context):
        self.hold(model, torch.ones_like(flat(model.parameters())).detach(), context)


# --- synaptic intelligence ------------------------------------------------------------------------


@method("Synaptic Intelligence", keeps="importances")
@dataclass
class SI(Pull):
    """Synaptic Intelligence (Zenke et al. 2017, equations 4 and 5): cross-entropy + strength x sum
    of Omega (theta - theta_old)^2, Omega = sum over tasks of omega / (Delta^2 + damping).

    omega is the path integral along a task's training, - sum over steps of gradient x change;
    Delta is how far the weight went in all. Task 1's path is the one recorded as it was trained;
    later rounds record their own. The gradient is that of the task's own loss, the penalty's left
    out, as in the authors' code; as there, an Omega that sums to less than 0 is set to 0.

    Kept between tasks: the old weights and one importance for each; and while a task is learned,
    its path so far and the weights it began from. strength: the paper's c, at least 0; damping: its
    xi, above 0, in units of squared weights."""

    damping: float = 0.1
    importance = None  # Omega (P,), over the tasks so far

    factor = 2.0

    def __post_init__(self):
        super().__post_init__()
        check_number("damping", self.damping, above=True)

    def before(self, model, task, context):
        now = flat(model.parameters()).detach()
        if self.importance is None:
            names = [name for name, _ in model.named_parameters()]
            self.importance = torch.zeros_like(now)
            self.path = _in_order(context.path(), names, "path along task 1").to(now)
            self.anchor = _in_order(context.initial(), names, "network before task 1").to(now)
        importance = self.importance + self.path / ((now - self.anchor) ** 2 + self.damping)
        self.importance = importance.clamp_min(0)
        self.hold(model, self.importance, context)
        self.path = torch.zeros_like(now)
        self.recording = context.round < len(context.tasks)  # nobody reads the last round's path

    @torch.no_grad()
    def after_backward(self, model):
        if self.recording:
            every = list(model.parameters())
            self.old = flat(every)  # a copy: it must not follow the step
            whole = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in every)
            self.gradient = whole - self.curvature * (self.old - self.anchor)

    @torch.no_grad()
    def after_step(self, model):
        if self.recording:
            self.path.addcmul_(self.gradient, flat(model.parameters()) - self.old, value=-1)


def _in_order(by_name: dict[str, Tensor], names: Sequence[str], what: str) -> Tensor:
    """The named tensors in one vector (P,)."""
    if lacking := [name for name in names if name not in by_name]:
        raise ValueError(
            f"Synaptic Intelligence: the {what} lacks {', '.join(lacking[:3])}; expected a tensor "
            "for every parameter"
        )
    return flat(by_name[name].detach() for name in names)

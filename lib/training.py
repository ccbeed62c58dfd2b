"""One training loop for every arm.

    history = fit(model, task, recipe, method=Freeze(...), seed=1, watch=tasks)
    evaluate(model, task)                    # top-1 accuracy on the task's test images, 0 to 1

What happens besides plain training (penalties, masks, replay) is a Method's business; the loop only
calls its hooks. `fit` reads from top to bottom: the plan of an epoch, one step, the loop.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, crop, draw_crops
from lib.evaluation import evaluate
from lib.kernels import Recorded
from lib.network import VGG
from lib.precision import autocast
from lib.recipe import Recipe
from lib.seeds import seed_of


class Method:
    """One way to go through a round. The base is fine-tuning: plain training; a subclass overrides
    what it needs.

    `fits` is asked before anything is trained. `before` / `after` see the model as it enters /
    leaves a round (round 2 trains task 2, and so on); `during` surrounds training; `batch`,
    `penalty`, `after_backward` and `after_step` are called in every step. `view` surrounds every
    evaluation on task k (a network may be another one for each task). `records` are extra tables:
    name -> list of rows. Hooks in the step must not read values back from the device (no
    `.item()`), or the device waits.

    What others must know of a method stands beside its name (see `lib.methods.registry`): label,
    family, keeps (what it stores between tasks) and version.
    """

    label: str = ""
    family: str = "own"
    keeps: str = "nothing"
    version: int = 1

    @property
    def steady(self) -> bool:
        """True if every step is the same work on the device, so that a GPU may replay it as one
        recorded graph: the step's own hooks are not overridden. A method whose hooks only launch
        work may set it to True itself."""
        return all(
            getattr(type(self), hook) is getattr(Method, hook)
            for hook in ("batch", "penalty", "after_backward", "after_step")
        )

    def fits(self, model: nn.Module, tasks: Sequence[Task], recipe: Recipe) -> None:
        """Raise ValueError, one sentence, where the method cannot work on such a network, on these
        tasks or by this recipe: asked before anything is trained. The model is not changed."""

    def before(self, model: nn.Module, task: Task, context: Any) -> None:
        """The model as it enters the round; context: what the method may ask for."""

    def during(self, model: nn.Module) -> AbstractContextManager:
        """What surrounds the round's training."""
        return nullcontext()

    def batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch, uint8 (B, 3, H, W) and labels (B,), with images of the method's own after it.
        Those are augmented and go through the network too; what is learned from them is up to
        `penalty`, since they may belong to another head."""
        return x, y

    def penalty(self, model: nn.Module, x: Tensor, y: Tensor, outputs: Tensor) -> Tensor | float:
        """What is added to the cross-entropy. x: the whole batch as the network saw it; y: its
        labels; outputs: logits (B, all outputs of the network), not only the new head's."""
        return 0.0

    def after_backward(self, model: nn.Module) -> None:
        """Gradients are there, the step is not yet taken."""

    def after_step(self, model: nn.Module) -> None:
        """The optimiser has stepped."""

    def after(self, model: nn.Module, task: Task, context: Any) -> None:
        """The model as it leaves the round."""

    def view(self, model: nn.Module, k: int) -> AbstractContextManager:
        """What surrounds an evaluation on task k (1, 2, ...)."""
        return nullcontext()

    def records(self) -> dict[str, list[dict]]:
        """Extra tables after the last round: name -> rows."""
        return {}


class History(NamedTuple):
    """accuracy: rows {epoch, task, accuracy}; loss: mean training loss of each epoch; seconds: wall
    time."""

    accuracy: list[dict]
    loss: list[float]
    seconds: float


class _Plan:
    """Which images the steps of an epoch see and how they are cropped.

    All that changes from step to step stands in tensors on the device (images and crops of every
    step, the number of the step, the epoch's loss), so that a step takes no argument and can be
    recorded. Batch order, crops, and crops of a method's own images have generators of their own,
    fixed by (seed, task name).
    """

    def __init__(self, task: Task, recipe: Recipe, seed: int, device, dtype):
        self.order, self.crops, self.more = (
            torch.Generator().manual_seed(seed_of(seed, task.name, use))
            for use in ("order", "crops", "crops of more images")
        )
        self.recipe, self.images = recipe, len(task.x)
        self.steps = self.images // recipe.batch_size  # the last incomplete batch is dropped
        self.table = torch.zeros(self.steps, 4, recipe.batch_size, dtype=torch.int64, device=device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device, dtype=dtype)  # sum over the epoch's steps

    def draw_epoch(self) -> None:
        """Shuffle the images and draw their crops for the next epoch."""
        shuffled = torch.randperm(self.images, generator=self.order)
        picks = shuffled[: self.steps * self.recipe.batch_size].view(self.steps, 1, -1)
        size = self.recipe.batch_size
        cuts = torch.stack([self.draw(size, self.crops) for _ in range(self.steps)])
        self.table.copy_(torch.cat([picks, cuts], 1))
        self.number.zero_(), self.loss.zero_()

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """int64 (3, images): crops, as by `lib.data.draw_crops`."""
        return draw_crops(images, generator, self.recipe.crop_padding, self.recipe.flip)

    def now(self) -> tuple[Tensor, Tensor]:
        """This step's images (B,) and crops (3, B)."""
        step = self.table.index_select(0, self.number)[0]
        return step[0], step[1:]

    def count(self, loss: Tensor) -> None:
        """On to the next step."""
        self.loss.add_(loss.detach())
        self.number.add_(1)


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    method: Method | None = None,
    seed: int = 0,
    watch: Sequence[Task] = (),
    report: Callable[[int, int, dict[str, float], float], None] | None = None,
) -> History:
    """Train `model` on `task` by SGD with a fresh optimiser; every task in `watch` is evaluated
    after every epoch.

    Cross-entropy over the task's own outputs plus the method's penalty. The batch order and the
    augmentation have generators of their own, fixed by (seed, task name): arms of one seed see the
    same batches. The last incomplete batch is dropped. `report(epoch, epochs, accuracies, seconds)`
    is called after each epoch. Raises ValueError if a batch is larger than the task,
    FloatingPointError if the loss is not finite at the end of an epoch.
    """
    if len(task.x) < recipe.batch_size:
        raise ValueError(
            f"{task.name} has {len(task.x)} training images, fewer than one batch of "
            f"{recipe.batch_size}"
        )
    method = method or Method()
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    task = task._replace(mean=task.mean.to(device), std=task.std.to(device))
    plan = _Plan(task, recipe, seed, device, dtype)
    history, start = History([], [], 0.0), time.perf_counter()
    with method.during(model), _own_random_numbers(seed_of(seed, task.name, "dropout"), device):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(
            trained, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        step = _step(model, task, recipe, method, plan, optimiser)
        take_step = Recorded(step, device) if method.steady else step
        seen = {} if _features_are_fixed(model) else None  # test images' features, computed once
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            plan.draw_epoch()
            for _ in range(plan.steps):
                take_step()
            history.loss.append(_finite(plan, task, recipe, epoch))
            accuracies = {}
            for k, t in enumerate(watch, 1):
                with method.view(model, k):
                    accuracies[t.name] = evaluate(model, t, recipe.precision, seen)
            history.accuracy.extend(
                {"epoch": epoch, "task": k, "accuracy": v} for k, v in accuracies.items()
            )
            if report:
                report(epoch, recipe.epochs, accuracies, time.perf_counter() - start)
    return history._replace(seconds=time.perf_counter() - start)


def _step(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    method: Method,
    plan: _Plan,
    optimiser: torch.optim.Optimizer,
) -> Callable[[], None]:
    """One step of SGD on the plan's next batch, as a function without arguments."""
    device, dtype = plan.table.device, plan.loss.dtype

    def step() -> None:
        picks, cuts = plan.now()
        own = len(picks)
        x, y = method.batch(task.x[picks], task.y[picks])
        if more := len(x) - own:
            cuts = torch.cat([cuts, plan.draw(more, plan.more).to(device)], 1)
        x = crop(x, cuts, task, recipe.crop_padding, dtype)
        with autocast(recipe.precision, device):
            outputs = model(x)
        outputs = outputs.to(dtype)
        new, labels = (outputs[:own], y[:own]) if more else (outputs, y)
        loss = F.cross_entropy(new[:, task.outputs], labels)
        loss = loss + method.penalty(model, x, y, outputs)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        method.after_backward(model)
        optimiser.step()
        method.after_step(model)
        plan.count(loss)

    return step


@contextmanager
def _own_random_numbers(seed: int, device: torch.device):
    """Inside, the global generators (dropout draws from them) start at the seed; afterwards they
    are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _finite(plan: _Plan, task: Task, recipe: Recipe, epoch: int) -> float:
    """The epoch's mean loss; FloatingPointError if it is not finite."""
    mean = float(plan.loss) / plan.steps
    if not torch.isfinite(plan.loss):
        raise FloatingPointError(
            f"training loss of {task.name} became {mean} in epoch {epoch} (lr {recipe.lr}, "
            f"precision {recipe.precision}): lower the learning rate, or set precision: float32 in "
            "the profile"
        )
    return mean


def _features_are_fixed(model: nn.Module) -> bool:
    """True if training cannot change what `model.features` computes: all of it is frozen, with no
    batch norm (whose running statistics move)."""
    return (
        isinstance(model, VGG)
        and not any(p.requires_grad for p in model.features.parameters())
        and not any(isinstance(m, nn.BatchNorm2d) for m in model.features.modules())
    )

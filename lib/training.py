"""One training loop for every arm, and evaluation.

    history = fit(model, task, recipe, method=Freeze(...), seed=1, watch=tasks)
    evaluate(model, task)                    # top-1 accuracy on the task's test images, 0 to 1

What happens besides plain training (penalties, masks, replay) is a Method's business; the loop only
calls its hooks."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task, crop, draw_crops, normalise
from lib.kernels import Recorded
from lib.keys import seed_of
from lib.network import VGG
from lib.profile import Recipe

EVALUATION_BATCH = 500


class Method:
    """One way to go through a round. The base is fine-tuning: plain training; a subclass overrides
    what it needs.

    `before` / `after` see the model as it enters / leaves a round (round 2 trains task 2, and so
    on); `during` surrounds training; the others are called in every step. `records` are extra
    tables: name -> list of rows. Hooks in the step must not read values back from the device (no
    `.item()`), or the device waits."""

    @property
    def steady(self) -> bool:
        """True if every step is the same work on the device, so that a GPU may replay it as one
        recorded graph: the step's own hooks are not overridden. A method whose hooks only launch
        work may set it to True itself."""
        return all(
            getattr(type(self), hook) is getattr(Method, hook)
            for hook in ("batch", "penalty", "after_backward", "after_step")
        )

    def before(self, model: nn.Module, task: Task, context: Any) -> None: ...
    def during(self, model: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y

    def penalty(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor | float:
        return 0.0

    def after_backward(self, model: nn.Module) -> None: ...
    def after_step(self, model: nn.Module) -> None: ...
    def after(self, model: nn.Module, task: Task, context: Any) -> None: ...
    def view(self, model: nn.Module, k: int) -> AbstractContextManager:
        return nullcontext()

    def records(self) -> dict[str, list[dict]]:
        return {}


class History(NamedTuple):
    """accuracy: rows {epoch, task, accuracy}; loss: mean training loss of each epoch; seconds: wall
    time."""

    accuracy: list[dict]
    loss: list[float]
    seconds: float


def bf16_supported(device: torch.device) -> bool:
    """True where bf16 products run in hardware (a T4 or a processor without AVX-512 BF16 / AMX has
    none)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = (
        getattr(torch.cpu, name, bool)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return device.type == "cpu" and any(probe() for probe in probes)


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """`auto` -> "bf16" where the device has it, else "float32"; anything else unchanged."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_supported(torch.device(device)) else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16 autocast (float32 master weights) if the resolved precision says so, else nothing."""
    use = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)


def default_device() -> torch.device:
    """The GPU if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    FloatingPointError if the loss is not finite at the end of an epoch."""
    method = method or Method()
    if len(task.x) < recipe.batch_size:
        raise ValueError(
            f"{task.name} has {len(task.x)} training images, fewer than one batch of "
            f"{recipe.batch_size}"
        )
    device, dtype = (getattr(next(model.parameters()), what) for what in ("device", "dtype"))
    task = task._replace(mean=task.mean.to(device), std=task.std.to(device))
    order, crops = (
        torch.Generator().manual_seed(seed_of(seed, task.name, use)) for use in ("order", "crops")
    )
    steps, augmentation = (
        len(task.x) // recipe.batch_size,
        (crops, recipe.crop_padding, recipe.flip),
    )
    # all that changes from step to step stands in these, so that a step takes no argument and can
    # be recorded
    plan = torch.zeros(
        steps, 4, recipe.batch_size, dtype=torch.int64, device=device
    )  # images and their crops
    number, total = (
        torch.zeros(1, dtype=torch.int64, device=device),
        torch.zeros((), device=device, dtype=dtype),
    )

    def step():
        now = plan.index_select(0, number)[0]
        picks, cuts = now[0], now[1:]
        x, y = method.batch(task.x[picks], task.y[picks])
        if more := len(x) - len(picks):  # what a method adds to the batch is augmented too
            cuts = torch.cat([cuts, draw_crops(more, *augmentation).to(device)], 1)
        x = crop(x, cuts, task, recipe.crop_padding, dtype)
        with autocast(recipe.precision, device):
            logits = model(x)[:, task.outputs]
        logits = logits.to(dtype)
        loss = F.cross_entropy(logits, y) + method.penalty(model, x, y, logits)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        method.after_backward(model)
        optimiser.step()
        method.after_step(model)
        total.add_(loss.detach())
        number.add_(1)

    history, start = History([], [], 0.0), time.perf_counter()
    with (
        method.during(model),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(seed_of(seed, task.name, "dropout"))
        optimiser = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        take_step = Recorded(step, device) if method.steady else step
        seen: dict | None = (
            {} if _features_are_fixed(model) else None
        )  # then test images' features are computed once
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            shuffled = torch.randperm(len(task.x), generator=order)[
                : steps * recipe.batch_size
            ].view(steps, 1, -1)
            cuts = torch.stack([draw_crops(recipe.batch_size, *augmentation) for _ in range(steps)])
            plan.copy_(torch.cat([shuffled, cuts], 1))
            number.zero_(), total.zero_()
            for _ in range(steps):
                take_step()
            history.loss.append(float(total) / steps)
            if not torch.isfinite(total):
                raise FloatingPointError(
                    f"training loss of {task.name} became {history.loss[-1]} in epoch {epoch} "
                    f"(lr {recipe.lr}, precision {recipe.precision}): lower the learning rate, "
                    "or set precision: float32 in the profile"
                )
            accuracies = {t.name: evaluate(model, t, recipe.precision, seen) for t in watch}
            history.accuracy.extend(
                {"epoch": epoch, "task": k, "accuracy": v} for k, v in accuracies.items()
            )
            if report:
                report(epoch, recipe.epochs, accuracies, time.perf_counter() - start)
    return history._replace(seconds=time.perf_counter() - start)


def _features_are_fixed(model: nn.Module) -> bool:
    """True if training cannot change what `model.features` computes: all of it is frozen, with no
    batch norm (whose running statistics move)."""
    return (
        isinstance(model, VGG)
        and not any(p.requires_grad for p in model.features.parameters())
        and not any(isinstance(m, nn.BatchNorm2d) for m in model.features.modules())
    )


@torch.no_grad()
def predict(
    model: nn.Module, task: Task, x: Tensor, precision: str = "float32", seen: dict | None = None
) -> Tensor:
    """Logits (N, all outputs) of uint8 images (N, 3, H, W) in evaluation mode; the model's mode is
    put back.

    seen: keeps the features of each batch between calls, for a model whose features stay as they
    are."""

    def logits(part: Tensor, number: int) -> Tensor:
        if seen is None:
            return model(normalise(part, task, dtype))
        if (task.name, number) not in seen:
            seen[task.name, number] = model.features(normalise(part, task, dtype)).flatten(1)
        return model.head(seen[task.name, number])

    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    was_training = model.training
    model.eval()
    try:
        with autocast(precision, device):
            parts = [logits(part, i).to(dtype) for i, part in enumerate(x.split(EVALUATION_BATCH))]
        return torch.cat(parts)
    finally:
        model.train(was_training)


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
    return (
        torch.bincount(task.y_test * n_classes + answers, minlength=n_classes**2)
        .view(n_classes, n_classes)
        .cpu()
    )

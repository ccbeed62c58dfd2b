"""Methods that keep some images of every earlier task and go on learning from them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.data import Task
from lib.evaluation import predict
from lib.methods.options import check_count, check_number
from lib.methods.registry import method
from lib.seeds import seed_of
from lib.training import Method


class Buffer(NamedTuple):
    """Kept images of earlier tasks, on the device, in the order they came in."""

    x: Tensor  # uint8 (M, 3, H, W), not augmented
    y: Tensor  # int64 (M,), the label within its task
    first: Tensor  # int64 (M,), the first output of its task's head
    logits: Tensor  # (M, K) of its own head at the end of its round; (M, 0) where none are kept

    def own(self, outputs: Tensor, picks: Tensor, classes: int) -> Tensor:
        """Logits (B, classes) of each image's own head from outputs (B, all) for images `picks`."""
        columns = self.first[picks, None] + torch.arange(classes, device=outputs.device)
        return outputs.gather(1, columns)


@method("replay", keeps="images")
@dataclass
class Replay(Method):
    """Experience replay (Chaudhry et al. 2019, algorithm 1; the idea: Robins 1995):

        loss = CE(new images) + CE(images of the buffer)

    each the mean over its own images, the buffer's over each image's own head. As a round begins,
    `per_class` images of every class of the task learned last join the buffer, drawn at random.
    Every step draws a batch from it, never an image twice in a step; the images are augmented and
    go through the network together with the new ones, so that batch norm's statistics are of both.

    Departs from the paper: whole tasks with known ends, so the buffer is balanced over classes
    instead of a reservoir of a stream; two means are added instead of one taken over both batches,
    so that old and new weigh the same whatever the sizes.

    per_class: images, at least 1; batch_size: images of the buffer a step (None: as many as new
    ones; the whole buffer if it is smaller). Stored between tasks: images with labels. Which images
    are kept is fixed by (seed, task) and which come in a step by (seed, round's task), by
    generators of their own; a smaller buffer is part of a larger one. `before` raises ValueError
    for a class with fewer than `per_class` training images. Records `memory`: the buffer's size
    before the last round in images and bytes (all that the buffer holds).
    """

    per_class: int = 20
    batch_size: int | None = None

    def __post_init__(self):
        check_count("per_class", self.per_class)
        check_count("batch_size", self.batch_size, or_none=True)
        self.buffer: Buffer | None = None

    def fits(self, model, tasks, recipe):
        for task in tasks[:-1]:
            choose(task, self.per_class, seed=0)

    def before(self, model, task, context):
        learned = context.tasks[context.round - 2]
        picks = choose(learned, self.per_class, context.seed).to(learned.x.device)
        kept = learned._replace(x=learned.x[picks], y=learned.y[picks])
        first = torch.full_like(kept.y, learned.first_output)
        logits = self.answers(model, kept, context.recipe.precision)
        new = Buffer(kept.x, kept.y, first, logits)
        old = self.buffer or Buffer(*(part[:0] for part in new))
        self.buffer = Buffer(*(torch.cat(parts) for parts in zip(old, new)))
        self.classes = len(learned.classes)
        seed = seed_of(context.seed, task.name, "replayed")
        self.draws = torch.Generator().manual_seed(seed)

    def answers(self, model: nn.Module, kept: Task, precision: str) -> Tensor:
        """What is kept beside the images: float (M, K), or (M, 0) for nothing."""
        return torch.empty(len(kept.x), 0, device=kept.x.device)

    def batch(self, x, y):
        # drawn on the processor: the order is the same on every device, and nothing is read back
        order = torch.randperm(len(self.buffer.x), generator=self.draws)
        self.picks = order[: self.batch_size or len(x)].to(x.device)
        replayed = self.buffer.x[self.picks], self.buffer.y[self.picks]
        return torch.cat([x, replayed[0]]), torch.cat([y, replayed[1]])

    def replayed(self, y: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Own-head logits (B, K) and labels (B,) of the step's buffer images: the batch's last."""
        count = len(self.picks)
        return self.buffer.own(outputs[-count:], self.picks, self.classes), y[-count:]

    def penalty(self, model, x, y, outputs):
        return F.cross_entropy(*self.replayed(y, outputs))

    def records(self):
        size = sum(part.numel() * part.element_size() for part in self.buffer)
        return {"memory": [{"images": len(self.buffer.x), "bytes": size}]}


@method("DER++", keeps="images")
@dataclass
class DER(Replay):
    """Dark Experience Replay++ (Buzzega et al. 2020, equation 6):

        loss = CE(new images) + alpha * squared distance of the buffer's logits to the stored ones
               + beta * CE(images of the buffer)

    The squared distance is the mean over images and over the K outputs of each image's own head, as
    in the authors' code (alpha comes from there); the paper's formula sums over the outputs.

    Departs from the paper: logits are stored once, at the end of the round that an image belongs
    to, in evaluation mode and of the image as it is, not along training and augmented; of its own
    head only, since the other heads were not trained yet; one batch of the buffer serves both terms
    (the paper draws two: the same expectation, half the price); the buffer is that of `Replay`.

    alpha, beta: at least 0 (authors: alpha .1 to .3, beta .5). Stored between tasks: images with
    labels and K logits each. alpha 0 and beta 1 is replay.
    """

    alpha: float = 0.2
    beta: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_number("alpha", self.alpha)
        check_number("beta", self.beta)

    def answers(self, model, kept, precision):
        return predict(model, kept, kept.x, precision)[:, kept.outputs]

    def penalty(self, model, x, y, outputs):
        logits, labels = self.replayed(y, outputs)
        distance = F.mse_loss(logits, self.buffer.logits[self.picks])
        return self.alpha * distance + self.beta * F.cross_entropy(logits, labels)


def choose(task: Task, per_class: int, seed: int) -> Tensor:
    """Numbers (K * per_class,) of training images, class by class, drawn by (seed, task)."""
    draws = torch.Generator().manual_seed(seed_of(seed, task.name, "buffer"))
    labels, picks = task.y.cpu(), []
    for label, name in enumerate(task.classes):
        have = (labels == label).nonzero().squeeze(1)
        if len(have) < per_class:
            raise ValueError(
                f"class {name} of {task.name} has {len(have)} training images, fewer than "
                f"per_class {per_class}: keep fewer"
            )
        picks.append(have[torch.randperm(len(have), generator=draws)[:per_class]])
    return torch.cat(picks)

"""What happens to round 2: each method is a small class whose fields are its options in a profile
line.

    METHODS["freeze"](ranking="mse", fraction=0.5)

A new method is one subclass of `Method` (its hooks: `lib.training.Method`), entered in METHODS.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import freezing
from lib.data import Task
from lib.network import conv_layers
from lib.profile import Recipe
from lib.training import Method

TRACE_STEPS = 20  # places along fine-tuning's trajectory, log-spaced in steps
LINE_POINTS = 11  # places on the straight line between the weights before and after, ends included


@dataclass
class Context:
    """What a method may ask for, beside the model and the task of the round."""

    tasks: Sequence[Task]
    seed: int
    recipe: Recipe
    scores: Callable[
        ..., freezing.Scores
    ]  # scores(ranking, **options) from the model as it was before round 2
    accuracies: Callable[[nn.Module], dict[str, float]]  # task name -> test accuracy


@dataclass
class FineTune(Method):
    """Plain training; with `trace`, also the two trivial controls that cost no training of their
    own:

    its own trajectory (accuracies after about 20 log-spaced steps), and the straight line between
    the weights before and after (WiSE-FT, Wortsman et al. 2022; batch-norm statistics are
    interpolated too)."""

    trace: bool = False
    rows: list[dict] = field(default_factory=list, repr=False, init=False)

    def __post_init__(self):
        if not isinstance(self.trace, bool):
            raise ValueError(f"trace {self.trace!r}: expected true or false")

    def before(self, model, task, context):
        if self.trace:
            steps = len(task.x) // context.recipe.batch_size * context.recipe.epochs
            self.marks = set(np.geomspace(1, steps, TRACE_STEPS).round().astype(int).tolist())
            self.step, self.context = 0, context
            self.start = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.rows.append({"control": "trajectory", "place": 0, **context.accuracies(model)})

    def after_step(self, model):
        if self.trace:
            self.step += 1
            if self.step in self.marks:
                self.rows.append(
                    {"control": "trajectory", "place": self.step, **self.context.accuracies(model)}
                )

    def after(self, model, task, context):
        if self.trace:
            end = {k: v.detach().clone() for k, v in model.state_dict().items()}
            for alpha in np.linspace(0, 1, LINE_POINTS).round(6).tolist():
                model.load_state_dict(interpolate(self.start, end, alpha))
                self.rows.append(
                    {"control": "interpolation", "place": alpha, **context.accuracies(model)}
                )
            model.load_state_dict(end)
            del self.start, self.context

    def records(self):
        return {"trajectory": self.rows} if self.trace else {}


def interpolate(
    start: dict[str, Tensor], end: dict[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 - alpha) start + alpha end, tensor by tensor; integer buffers (counters) come from `end`.

    Exact at both ends: alpha 0 gives start's bits and alpha 1 gives end's.
    """
    if alpha in (0, 1):
        return {k: (end if alpha else start)[k].clone() for k in end}
    return {
        k: torch.lerp(start[k], v, alpha) if v.is_floating_point() else v.clone()
        for k, v in end.items()
    }


@dataclass
class Freeze(Method):
    """Freeze a fraction of each layer's filters, chosen by a ranking made before the round, then
    train the rest.

    ranking: a name in `lib.ranking.RANKINGS`; fraction in [0, 1]; rule: "turns", "union" or
    "network" (see `lib.freezing.RULES`); scope: "weights" or "filter"; draw: which random draw, for
    the ranking "random"."""

    ranking: str
    fraction: float
    rule: str = "turns"
    scope: str = "weights"
    draw: int | None = None

    def __post_init__(self):
        number = isinstance(self.fraction, (int, float)) and not isinstance(self.fraction, bool)
        if not number or not 0 <= self.fraction <= 1:
            raise ValueError(
                f"fraction {self.fraction!r}: expected a number from 0 to 1 (filters frozen / "
                "filters)"
            )
        if self.rule not in freezing.RULES or self.scope not in ("weights", "filter"):
            raise ValueError(
                f"rule {self.rule!r}, scope {self.scope!r}: expected a rule of "
                f"{', '.join(freezing.RULES)} and scope weights or filter"
            )
        if self.draw is not None and self.ranking != "random":
            raise ValueError(
                f"draw {self.draw!r} with ranking {self.ranking!r}: only the random ranking has "
                "draws"
            )

    def before(self, model, task, context):
        options = {} if self.draw is None else {"draw": self.draw}
        self.masks = freezing.RULES[self.rule](
            context.scores(self.ranking, **options), self.fraction
        )

    def during(self, model) -> AbstractContextManager:
        return freezing.frozen(model, self.masks, self.scope)

    def records(self):
        return {
            "masks": [
                {
                    "layer": layer,
                    "filters": len(m),
                    "frozen": int(m.sum()),
                    "fraction": freezing.realised({layer: m})["all"],
                    "mask": pack(m),
                }
                for layer, m in self.masks.items()
            ]
        }


def pack(mask: Tensor) -> str:
    """bool (F,) as hexadecimal text, eight filters to two digits, the first filter the highest
    bit."""
    return np.packbits(mask.cpu().numpy()).tobytes().hex()


def unpack(text: str, filters: int) -> Tensor:
    """The inverse of `pack`: bool (F,)."""
    return torch.from_numpy(
        np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:filters].astype(bool)
    )


class RecordPath(Method):
    """Synaptic Intelligence's path integral (Zenke et al. 2017, equation 3) along training,
    recorded, never used: omega = - sum over steps of gradient x change. Reads only, so training's
    bits are the same with it or without."""

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


METHODS: dict[str, Callable[..., Method]] = {"finetune": FineTune, "freeze": Freeze}


def frozen_fraction(model: nn.Module, method: Method) -> float:
    """Filters frozen / filters over all convolutions; 0 for a method that freezes none."""
    masks = getattr(method, "masks", {})
    return sum(int(m.sum()) for m in masks.values()) / sum(
        c.out_channels for c in conv_layers(model).values()
    )

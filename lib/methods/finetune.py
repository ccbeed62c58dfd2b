"""Plain training, and what can be read off it without further training."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lib.methods.options import check_flag
from lib.methods.registry import method
from lib.training import Method

TRACE_STEPS = 20  # places along fine-tuning's trajectory, log-spaced in steps
LINE_POINTS = 11  # places on the straight line between the weights before and after, ends included


@method("fine-tune")
@dataclass
class FineTune(Method):
    """Plain training, no paper's method: what every other is compared with. Stores nothing between
    tasks.

    trace: also the two trivial controls that cost no training of their own, of round 2: its own
    trajectory (accuracies after about 20 log-spaced steps), and the straight line between the
    weights before and after (WiSE-FT, Wortsman et al. 2022, equation 1; batch-norm statistics are
    interpolated too), for which the weights before are kept until the round ends."""

    trace: bool = False
    rows: list[dict] = field(default_factory=list, repr=False, init=False)

    def __post_init__(self):
        check_flag("trace", self.trace)

    @property
    def steady(self) -> bool:
        return not self.trace

    def before(self, model, task, context):
        self.tracing = self.trace and not self.rows  # of the first round it sees, round 2
        if self.tracing:
            steps = len(task.x) // context.recipe.batch_size * context.recipe.epochs
            self.marks = set(np.geomspace(1, steps, TRACE_STEPS).round().astype(int).tolist())
            self.step, self.context = 0, context
            self.start = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.rows.append({"control": "trajectory", "place": 0, **context.accuracies(model)})

    def after_step(self, model):
        if self.tracing:
            self.step += 1
            if self.step in self.marks:
                self.rows.append(
                    {"control": "trajectory", "place": self.step, **self.context.accuracies(model)}
                )

    def after(self, model, task, context):
        if self.tracing:
            end = {k: v.detach().clone() for k, v in model.state_dict().items()}
            for alpha in np.linspace(0, 1, LINE_POINTS).round(6).tolist():
                model.load_state_dict(interpolate(self.start, end, alpha))
                self.rows.append(
                    {"control": "interpolation", "place": alpha, **context.accuracies(model)}
                )
            model.load_state_dict(end)
            del self.start, self.context
            self.tracing = False

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

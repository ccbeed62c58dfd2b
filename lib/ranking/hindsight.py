"""Upper marks: what could be known of a filter only by measuring the damage, or after training on
the next task. No ranking for use, but what one could at best predict."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from lib.data import Task, normalise
from lib.hooks import evaluation, out_of_place, plain_norms
from lib.network import VGG, conv_layers
from lib.ranking.activations import map_makers, of_each_class
from lib.ranking.gradients import filter_parameters, fisher_information, per_filter
from lib.ranking.registry import Evidence, Scores, ranking
from lib.training import Method

ABLATION_IMAGES = 25  # of each class, the first in data set order
ABLATION_BATCH = 1000  # images x filters at once: bounds memory, not results
LOSS_IMAGES = 10  # of each class: the batch on which the old task's loss is followed


def first_images(task: Task, count: int) -> Tensor:
    """Indices of each class's first `count` training images, class after class."""
    return torch.cat([pick[:count] for pick in of_each_class(task)])


# --- measured damage ------------------------------------------------------------------------------


@ranking("ablation damage", needs=("images",))
def ablation_damage(evidence: Evidence) -> Scores:
    """(C, F): how far each class's loss on its first 25 training images rises without the filter
    (see `damage`): the oracle that criteria of pruning try to guess (Molchanov et al. 2017, section
    2.1). Departs: class by class, from few images."""
    return damage(evidence.model, evidence.task, first_images(evidence.task, ABLATION_IMAGES))


@torch.no_grad()
def damage(model: nn.Module, task: Task, pick: Tensor) -> Scores:
    """layer -> (C, F), float64: how far each class's cross-entropy (nats, among the task's outputs,
    mean over those of its training images in `pick`) rises when a filter's map is 0, after its
    batch norm. Evaluation mode; the model is afterwards as before."""
    x, y = normalise(task.x[pick], task, next(model.parameters()).dtype), task.y[pick]
    share_cn = F.one_hot(y, len(task.classes)).T.double()
    share_cn /= share_cn.sum(1, keepdim=True)

    def losses() -> Tensor:  # (C,)
        each = F.cross_entropy(model(x)[:, task.outputs], y, reduction="none")
        return share_cn @ each.double()

    mapped = plain_norms if x.is_cuda else nullcontext
    with evaluation(model), out_of_place(model), mapped(model):
        whole_c, together = losses(), max(1, ABLATION_BATCH // len(x))
        found = {
            layer: vmap(_without(model, layer, losses), chunk_size=together)(_each_left_out(conv))
            - whole_c
            for layer, conv in conv_layers(model).items()
        }
    return {layer: rise_fc.T.cpu() for layer, rise_fc in found.items()}


def _each_left_out(conv: nn.Conv2d) -> Tensor:
    """(F, F): row f is 0 at f and 1 elsewhere."""
    w = conv.weight
    return 1 - torch.eye(len(w), dtype=w.dtype, device=w.device)


def _without(model: nn.Module, layer: str, losses: Callable[[], Tensor]) -> Callable:
    """A function keep (F,) -> losses (C,), with the layer's maps times `keep`. Mapped over many
    filters by vmap, it runs what lies below the layer once for all of them."""
    makers = map_makers(model)

    def with_one_left_out(keep: Tensor) -> Tensor:
        with ExitStack() as handles:
            for name, maker in makers.items():
                if name == layer:
                    hook = lambda _m, _x, y: y * keep.view(1, -1, 1, 1)  # noqa: E731
                elif isinstance(model, VGG):
                    continue
                else:  # adding in place, as a ResNet does, needs a copy a filter on both sides
                    hook = lambda _m, _x, y: y + 0 * keep[0]  # noqa: E731
                handles.callback(maker.register_forward_hook(hook).remove)
            return losses()

    return with_one_left_out


# --- after a trial of the next task ---------------------------------------------------------------


@ranking("Fisher x squared change", needs=("images", "trial"))
def fisher_change(evidence: Evidence) -> Scores:
    """(C, F): half the sum over a filter's weights and bias of Fisher information x squared change
    by plain training on the next task: the rise of the class's loss to second order, and what EWC
    (Kirkpatrick et al. 2017, equation 3) would have to pay for the filter."""
    after = evidence.trial.after
    squares = {
        name: (after[name].to(p) - p.detach()).square() / 2
        for name, p in evidence.model.named_parameters()
    }
    return fisher_information(evidence, times=squares)


@ranking("loss change", needs=("trial",))
def loss_change(evidence: Evidence) -> Scores:
    """(1, F): what a filter's weights and bias added to the old task's loss on their way through
    plain training on the next (loss change allocation, Lan et al. 2019, equation 3; see
    `LossChange` for where it departs), summed. Filters whose way raised the loss most come first;
    below 0: the way lowered it."""
    parts = {name: change[None].double() for name, change in evidence.trial.loss_change.items()}
    return {
        layer: per_filter(parts, names).cpu()
        for layer, names in filter_parameters(evidence.model).items()
    }


class LossChange(Method):
    """Plain training that follows the old task's loss (Lan et al. 2019, equation 3): for each
    parameter, the sum over steps of gradient of that loss x change. Reads only, so training's bits
    are the same.

    The gradient of a step is the mean of those at its two ends (trapezoid rule: it costs one
    gradient more in all than the left rule and errs in the third order of a step, not the second;
    Lan et al. use Runge-Kutta). The loss: cross-entropy among the old task's outputs, on a fixed
    batch, each class's first 10 training images, not augmented, float32, evaluation mode. Without
    batch norm the sum over all parameters is the loss's change; with it, what moving statistics
    change is left out.
    """

    def __init__(self, old: Task):
        self.old = old
        self.pick = first_images(old, LOSS_IMAGES)
        self.loss_change: dict[str, Tensor] = {}

    def _here(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of the parameters, and the loss's gradients there."""
        own = dict(model.named_parameters())
        x = normalise(self.old.x[self.pick], self.old, next(iter(own.values())).dtype)
        with evaluation(model), torch.enable_grad():
            loss = F.cross_entropy(model(x)[:, self.old.outputs], self.old.y[self.pick])
            gradients = torch.autograd.grad(loss, list(own.values()))
        return {name: p.detach().clone() for name, p in own.items()}, dict(zip(own, gradients))

    def before(self, model: nn.Module, task: Task, context: Any = None) -> None:
        self.place, self.gradient = self._here(model)
        self.loss_change = {name: torch.zeros_like(p) for name, p in self.place.items()}

    def after_step(self, model: nn.Module) -> None:
        place, gradient = self._here(model)
        for name, total in self.loss_change.items():
            mean = (self.gradient[name] + gradient[name]) / 2
            total.addcmul_(mean, place[name] - self.place[name])
        self.place, self.gradient = place, gradient

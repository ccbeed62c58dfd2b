"""Weights of their own for every task, in one network.

METHODS["packnet"](prune=0.5, later=0.75, retrain=5)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lib.methods.layers import all_but_weights, shared_layers, still, still_norms
from lib.methods.options import check_count, check_number, refuse_decay
from lib.methods.registry import method
from lib.seeds import seed_of
from lib.training import Method, fit

FREE = 0  # the owner of weights that no task has taken


@method("PackNet", keeps="weights", name="packnet")
@dataclass
class PackNet(Method):
    """PackNet (Mallya & Lazebnik 2018, section 3): prune, retrain, and give the next task what was
    pruned.

    As round k + 1 begins, of each convolution and hidden linear layer the free weights that are
    smallest in magnitude become zero, and the others are task k's for good; they are retrained on
    task k's images, at a tenth of the learning rate, with a fresh optimiser and no weight decay.
    Then the zeros train on task k + 1, beside the weights of all tasks before, which stand still.
    An evaluation on task k sees the weights of tasks 1 to k alone (`view`). Biases and batch norm,
    its statistics too, stand still from task 1's retraining on.

    Heads: with outputs for each task, the output layer is not packed, and a round moves its own
    task's outputs only. With a shared head the output layer is packed like a hidden one (the paper
    has no such case): task k answers by the weights of tasks 1 to k. Either way the answers on task
    k stay, bit for bit, and evaluation must know the task's number.

    Stored between tasks: the owner of each packed weight, one byte each; task k's images are needed
    until task k + 1 begins. Departures: the last task is not pruned, since none follows it; counts
    are rounded down; which weights are pruned is decided by rank, so ties do not prune more.

    prune, later: share of a layer's free weights pruned after the first task and after later ones,
    above 0 and below 1; retrain: epochs, at least 0. Raises ValueError for other options, and
    before a round for weight decay (it would move held weights) or if no free weight is left.
    """

    prune: float = 0.5
    later: float = 0.75
    retrain: int = 5
    owners: dict[str, Tensor] = field(
        default_factory=dict, repr=False, init=False
    )  # layer -> uint8
    round: int = field(default=1, repr=False, init=False)

    steady = True  # hooks in the step only launch work

    def __post_init__(self):
        for name in ("prune", "later"):
            share, means = getattr(self, name), "weights pruned / free weights"
            check_number(name, share, high=1, above=True, below=True, means=means)
        check_count("retrain", self.retrain, low=0)

    def fits(self, model, tasks, recipe):
        refuse_decay("PackNet", recipe, "it would move the weights of earlier tasks")
        shared_layers(model, tasks)

    def before(self, model, task, context):
        self.fits(model, context.tasks, context.recipe)
        old, number = context.tasks[context.round - 2], context.round - 1  # the task learned last
        layers = shared_layers(model, context.tasks)
        if not self.owners:
            self.owners = {
                name: torch.zeros_like(layer.weight, dtype=torch.uint8)
                for name, layer in layers.items()
            }
        self._prune(model, number, task.name)
        if self.retrain:
            self._let_move(model, owner=number, all_else=number == 1)
            recipe = replace(context.recipe, epochs=self.retrain, lr=context.recipe.lr / 10)
            fit(model, old, recipe, self, seed_of(context.seed, "PackNet", "retraining"))
        self._let_move(model, owner=FREE)
        self.round = context.round

    @torch.no_grad()
    def _prune(self, model: nn.Module, number: int, following: str) -> None:
        """The free weights: the larger ones become task `number`'s, the smaller ones zero."""
        share = self.prune if number == 1 else self.later
        for name, owner in self.owners.items():
            weight = model.get_submodule(name).weight
            free = owner == FREE
            pruned = smallest(weight, free, share)
            owner.masked_fill_(free & ~pruned, number)
            weight.masked_fill_(pruned, 0)
        if not any((owner == FREE).any() for owner in self.owners.values()):
            raise ValueError(
                f"no free weight is left for {following}: tasks 1 to {number} hold all "
                f"{sum(o.numel() for o in self.owners.values())}; prune more or train fewer tasks"
            )

    def _let_move(self, model: nn.Module, owner: int, all_else: bool = False) -> None:
        """What the next training may move: packed weights of that owner and an output layer that is
        not packed; all_else: biases and batch norm too."""
        layers = {name: model.get_submodule(name) for name in self.owners}
        self.held = [(layers[name].weight, owners != owner) for name, owners in self.owners.items()]
        self.resting = [] if all_else else all_but_weights(model, layers)

    @contextmanager
    def during(self, model):
        with ExitStack() as held:
            if self.resting:
                held.enter_context(still(self.resting))
                held.enter_context(still_norms(model))
            yield

    def after_backward(self, model):
        # with no gradient in any step of a fresh optimiser, momentum has nothing to move them by
        for weight, held in self.held:
            weight.grad.masked_fill_(held, 0)

    @contextmanager
    def view(self, model: nn.Module, k: int) -> Iterator[None]:
        """Inside, the network is task k's: the weights of later tasks are zero. Afterwards they are
        back, bit for bit."""
        if k >= self.round:  # a task of this round or to come: all there is
            yield
            return
        hidden = []
        for name, owner in self.owners.items():
            weight = model.get_submodule(name).weight.data
            hidden.append((weight, weight.clone()))
            weight.masked_fill_((owner == FREE) | (owner > k), 0)
        try:
            yield
        finally:
            for weight, whole in hidden:
                weight.copy_(whole)

    def records(self):
        return {"packing": [row for name in self.owners for row in self._rows(name)]}

    def _rows(self, name: str) -> list[dict]:
        """A layer's weights by the task they are for; those nobody has taken are the last's."""
        owner = self.owners[name]
        counts = torch.bincount(owner.flatten().long(), minlength=self.round).tolist()
        counts = [*counts[1 : self.round], counts[FREE]]
        return [
            {"layer": name, "task": k, "weights": n, "share": n / owner.numel(), "bytes": n}
            for k, n in enumerate(counts, 1)
        ]


def smallest(weight: Tensor, among: Tensor, share: float) -> Tensor:
    """Mask, as weight, of the smallest in magnitude among those marked: that share of them, rounded
    down. Ties go to the earlier weight."""
    count = int(share * int(among.sum()) + 1e-9)
    size = weight.detach().abs().masked_fill(~among, torch.inf).flatten()
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[size.argsort(stable=True)[:count]] = True
    return mask.view(weight.shape)

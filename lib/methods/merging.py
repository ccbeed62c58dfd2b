"""Methods that fine-tune as usual and then put part of the old weights back: no training of their
own.

    theta = (1 - share) start + share end        share: of the end, for each weight, in [0, 1]

start: the network as it entered the round; end: as fine-tuning leaves it. Integer buffers (batch
norm's counters) are the end's. Accuracies along the epochs are fine-tuning's; the merged network is
what the round leaves behind.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lib.data import Task
from lib.methods.finetune import interpolate
from lib.methods.options import check_count, check_number, check_ranking
from lib.methods.penalties import fisher
from lib.methods.registry import method
from lib.network import conv_layers, norm_layers
from lib.ranking import RANKINGS, Scores
from lib.training import Method


@method("merge", keeps="weights")
@dataclass
class Merge(Method):
    """The straight line between start and end (WiSE-FT, Wortsman et al. 2022, equation 1): every
    weight and every batch-norm statistic at the same place.

    weight: of the end, in [0, 1]; 0 is the start and 1 is fine-tuning, to the bit. Stored between
    tasks: the weights. In round 3 and later the start is the network merged in the round before.
    """

    weight: float = 0.5

    def __post_init__(self):
        means = "0: the weights before the round, 1: fine-tuning's"
        check_number("weight", self.weight, high=1, means=means)

    def before(self, model, task, context):
        self.start = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def shares(self, model: nn.Module, task: Task) -> dict[str, Tensor]:
        """Entry of the state -> share of the end, of a shape that fits the entry; `weight` where
        an entry is not named. model: as fine-tuning leaves it."""
        return {}

    def after(self, model, task, context):
        shares = self.shares(model, task)
        end = {k: v.detach().clone() for k, v in model.state_dict().items()}
        merged = interpolate(self.start, end, self.weight)
        for name, share in shares.items():
            merged[name] = torch.lerp(self.start[name], end[name], share.to(end[name]))
        model.load_state_dict(merged)
        del self.start


@method("merge, Fisher", keeps="importances", name="merge_fisher")
@dataclass
class MergeFisher(Merge):
    """Fisher-weighted averaging (Matena & Raffel 2022, equation 2), weight by weight:

        theta = ((1 - w) F1 start + w F2 end) / ((1 - w) F1 + w F2)

    F1: diagonal Fisher information of the old tasks, F2: of the new one at the end; w: `weight`
    (.5: the paper's formula without coefficients). The Fisher is exact: the mean over images of the
    sum over labels y of p(y) (d log p(y) / d theta)^2, of single images, in evaluation mode, not
    augmented, over the task's own outputs.

    Departs from the paper: where both are 0 the weight lies on the straight line, as is the limit
    of the paper's small floor under both Fishers, without a floor that small Fishers would drown
    in. Batch-norm statistics have no Fisher: straight line. With a head for each task, each head is
    taken whole from where it was learned (elsewhere its Fisher is 0). The Fishers are used as they
    are, not brought to one scale: a network sure of its answers has a small one, and F1 grows with
    every task, so `weight` must be tuned.

    images: training images a Fisher is made from, the first in data-set order (None: all; cost K
    backward passes an image). Stored between tasks: the weights and one importance for each. Every
    task's Fisher is made at the end of its own round, before merging, and joins the sum F1 (task
    1's as round 2 begins, when the network is still as task 1 left it); so no image of an earlier
    round is needed.
    """

    images: int | None = None
    old: Tensor | None = field(default=None, repr=False, init=False)  # (P,), the sum F1

    def __post_init__(self):
        super().__post_init__()
        check_count("images", self.images, or_none=True)

    def before(self, model, task, context):
        super().before(model, task, context)
        if self.old is None:
            self.old = fisher(model, context.tasks[context.round - 2], images=self.images)

    def shares(self, model, task):
        new = fisher(model, task, images=self.images)
        start, end = (1 - self.weight) * self.old, self.weight * new
        share = torch.where(start + end > 0, end / (start + end), self.weight)
        self.old = self.old + new
        names, parameters = zip(*model.named_parameters())
        parts = share.split([p.numel() for p in parameters])
        return {n: part.view_as(p) for n, p, part in zip(names, parameters, parts)}


@method("merge by ranking", keeps="weights", name="merge_ranking")
@dataclass(kw_only=True)
class MergeRanking(Merge):
    """The straight line, filter by filter at another place: the higher a ranking puts a filter, the
    more of its start is kept (see `kept`). Not from a paper: a ranking's answer to "which filters
    matter for task 1" without training.

    In every layer the mean share of the start is 1 - weight, so that it compares with `Merge` of
    the same weight. A filter takes its batch norm's weights and statistics along; what belongs to
    no filter (the head) lies on the straight line.

    ranking: a name in `lib.ranking.RANKINGS`, made before each round; weight: the mean share of the
    end, in [0, 1]; draw: which random draw, for a ranking that has draws. Stored between tasks: the
    weights, and what the ranking looks at.
    """

    ranking: str
    draw: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_ranking(self.ranking, self.draw)

    def fits(self, model, tasks, recipe):
        RANKINGS[self.ranking].fits(model)

    def before(self, model, task, context):
        super().before(model, task, context)
        options = {} if self.draw is None else {"draw": self.draw}
        self.scores: Scores = context.scores(self.ranking, **options)

    def shares(self, model, task):
        names = {module: name for name, module in model.named_modules()}
        convs, norms, found = conv_layers(model), norm_layers(model), {}
        for layer, scores_cf in self.scores.items():
            share_f = 1 - kept(scores_cf, 1 - self.weight)
            for module in filter(None, (convs[layer], norms.get(layer))):
                for name, tensor in module.state_dict().items():
                    if tensor.is_floating_point():  # (F, ...): all of it belongs to filters
                        shape = (-1, *[1] * (tensor.ndim - 1))
                        found[f"{names[module]}.{name}"] = share_f.view(shape)
        return found


def kept(scores_cf: Tensor, mean: float) -> Tensor:
    """Share of the start (F,), float64 in [0, 1], of a layer's filters from a ranking's scores
    (C, F).

    A filter's place in the layer is the order of its mean place over the classes; ties go to the
    lower filter number, but filters that every class scores alike share the mean of their places
    (so equal scores are the straight line). Shares rise with the place in even steps, as steeply as
    [0, 1] allows around `mean`, which is their mean: from 0 to 1 at .5, from .6 to 1 at .8."""
    places_cf = _places(scores_cf.double())
    place_f = _places(places_cf.double().mean(0, keepdim=True))[0].double()
    alike_f = scores_cf.unique(dim=1, return_inverse=True)[1]
    sums, counts = (
        torch.zeros_like(place_f).index_add_(0, alike_f, values)
        for values in (place_f, torch.ones_like(place_f))
    )
    rise = (2 * (sums / counts)[alike_f] + 1) / len(place_f) - 1  # in (-1, 1), mean 0
    return mean + rise * min(mean, 1 - mean)


def _places(values: Tensor) -> Tensor:
    """int64 (C, F): each filter's place in its row, 0 for the lowest value."""
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.shape[1] - 1 - order.argsort(1)

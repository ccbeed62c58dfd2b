"""Soft freezing: filters are not frozen or free, but held more or less, by a ranking's scores.

SoftFreeze(ranking="mse", form="stiffness", strength=100.0, importance="exact")
SoftFreeze(ranking="mse", form="learning rate")
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.freezing import SCOPES
from lib.methods.options import (
    check_choice,
    check_count,
    check_number,
    check_ranking,
    refuse_decay,
)
from lib.methods.penalties import (
    FISHERS,
    Pull,
    fisher,
    flat,
)
from lib.methods.registry import method
from lib.network import conv_layers, norm_layers
from lib.ranking import RANKINGS

FORMS = ("stiffness", "learning rate")
CLASSES = ("mean", "max")  # how a filter's ranks for the classes become one number


@method("soft freezing", keeps="importances", name="soft")
@dataclass(kw_only=True)
class SoftFreeze(Pull):
    """Every filter f of every layer gets a stiffness s_f in [0, 1] from a ranking (see
    `stiffness`); it is held by it, in one of two forms. The first future work that Feenstra & Dow
    (2023) name, EWC joined to the ranking; they give no formula, so this one is ours.

    form "stiffness": cross-entropy + strength / 2 x sum over filters of s_f x importance x (theta_f
    - theta_old,f)^2, strength at least 0. importance: "uniform" (1), or the Fisher information of
    the task learned last, "exact", "sampled" or "empirical", of its first `images` training images
    (see `lib.methods.penalties.fisher`). form "learning rate": the filter's gradient is multiplied
    by 1 - strength x s_f before the step, strength from 0 to 1; at strength x s_f = 1 the filter
    stands still, bit for bit. SGD's weight decay would still move it, so a recipe with weight decay
    is refused.

    What is no filter's (the head; batch norm with scope "weights") trains as ever. scope "filter":
    a filter is held with its batch norm's gamma and beta; running statistics follow the data. Over
    more than two tasks a filter never softens (its stiffness is the largest so far), the anchor is
    the latest weights, and Fisher information is summed over the rounds.

    Kept between tasks: one number a filter for the form "learning rate"; with "stiffness" also the
    old weights, and their importances. The ranking and the Fisher information look at images of the
    task learned last as the round begins. ranking: a name in `lib.ranking.RANKINGS`; draw: which
    random draw, for a ranking that has draws; classes: "mean" or "max"."""

    ranking: str
    form: str = "stiffness"
    importance: str = "uniform"
    classes: str = "mean"
    scope: str = "weights"
    images: int | None = None
    draw: int | None = None

    def __post_init__(self):
        check_ranking(self.ranking, self.draw)
        check_choice("form", self.form, FORMS)
        check_choice("importance", self.importance, ("uniform", *FISHERS))
        check_choice("classes", self.classes, CLASSES)
        check_choice("scope", self.scope, SCOPES)
        check_count("images", self.images, or_none=True)
        super().__post_init__()
        if self.form == "learning rate":
            check_number("strength (form learning rate)", self.strength, high=1)
            if self.importance != "uniform":
                raise ValueError(
                    f"importance {self.importance!r} with form learning rate, which has no "
                    "penalty: leave it out, or take form stiffness"
                )
        if self.importance == "uniform" and self.images is not None:
            raise ValueError(
                f"images {self.images!r} with importance uniform, which looks at none: leave it "
                "out, or take a Fisher information"
            )
        self.stiffness: dict[str, Tensor] = {}  # layer -> (F,), the largest so far
        self.information: Tensor | float = 0.0  # Fisher information (P,), summed over the rounds
        self.layers: list[dict] = []

    def fits(self, model, tasks, recipe):
        RANKINGS[self.ranking].fits(model)
        if self.form == "learning rate":
            why = "it would move filters that are to stand still (form stiffness allows it)"
            refuse_decay("soft freezing's form learning rate", recipe, why)

    def before(self, model, task, context):
        self.fits(model, context.tasks, context.recipe)
        options = {} if self.draw is None else {"draw": self.draw}
        for layer, scores_cf in context.scores(self.ranking, **options).items():
            new = stiffness(scores_cf, self.classes)
            self.stiffness[layer] = torch.maximum(new, self.stiffness.get(layer, new))
        self.layers += [
            {
                "round": context.round,
                "layer": layer,
                "filters": len(s),
                "stiffness": float(s.mean()),
            }
            for layer, s in self.stiffness.items()
        ]
        held = by_parameter(model, self.stiffness, self.scope)
        if self.form == "stiffness":
            everywhere = flat(
                held[p].expand_as(p) if p in held else torch.zeros_like(p).detach()
                for p in model.parameters()
            )
            self.hold(model, everywhere * self._information(model, context), context)
        else:
            self.share = {p: 1 - self.strength * s for p, s in held.items()}

    def _information(self, model, context) -> Tensor | float:
        """What a stiffness is multiplied by: 1, or the Fisher information (P,)."""
        if self.importance == "uniform":
            return 1.0
        learned = context.tasks[context.round - 2]
        found = fisher(model, learned, self.importance, self.images, context.seed)
        self.information = self.information + found
        return self.information

    def penalty(self, model, x, y, outputs):
        return super().penalty(model, x, y, outputs) if self.form == "stiffness" else 0.0

    def after_backward(self, model):
        if self.form == "learning rate":
            for p, share in self.share.items():
                if p.grad is not None:
                    p.grad.mul_(share)

    def records(self):
        pulls = super().records() if self.form == "stiffness" else {}
        return {**pulls, "stiffness": self.layers}


def stiffness(scores_cf: Tensor, classes: str = "mean") -> Tensor:
    """A ranking's scores of one layer (C, F) -> stiffness (F,) in [0, 1], float64.

    Each class ranks the layer's filters, from 0 (lowest score) to 1 (highest), so that any score's
    scale will do; equal scores share the mean of their ranks, so that a layer without any order is
    held by one half. classes: a filter's "mean" or "max" over the classes' ranks. Raises ValueError
    on scores that are not finite (C, F)."""
    if scores_cf.ndim != 2 or not torch.isfinite(scores_cf).all():
        raise ValueError(f"scores: expected finite (C, F), got shape {tuple(scores_cf.shape)}")
    a_cf1, b_c1f = scores_cf[:, :, None], scores_cf[:, None, :]
    below, equal = (a_cf1 > b_c1f).sum(2), (a_cf1 == b_c1f).sum(2)  # equal counts the filter itself
    others = scores_cf.shape[1] - 1
    if others == 0:
        return torch.full((1,), 0.5, dtype=torch.float64, device=scores_cf.device)
    ranks_cf = (below + (equal.double() - 1) / 2) / others
    return ranks_cf.mean(0) if classes == "mean" else ranks_cf.amax(0)


def by_parameter(
    model: nn.Module, by_layer: dict[str, Tensor], scope: str = "weights"
) -> dict[nn.Parameter, Tensor]:
    """Stiffness of whole layers (F,) -> of their parameters (F, 1, ...), to be spread over each
    filter's numbers: weight and bias; with scope "filter" also its batch norm's gamma and beta."""
    convs, norms, held = conv_layers(model), norm_layers(model), {}
    for layer, s_f in by_layer.items():
        modules = [convs[layer], *([norms[layer]] if scope == "filter" and layer in norms else [])]
        for p in (p for module in modules for p in module.parameters(recurse=False)):
            held[p] = s_f.to(p).view(-1, *[1] * (p.ndim - 1))
    return held

"""Freezing filters: the paper's method, with any ranking."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from torch import Tensor, nn

from lib import freezing
from lib.methods.options import check_choice, check_number, check_ranking
from lib.methods.registry import method
from lib.network import conv_layers
from lib.ranking import RANKINGS
from lib.training import Method


@dataclass
class Hold(Method):
    """What methods that freeze filters share: `masks` are held through the round, and written down
    round by round: with more than one, a row says in columns `round` and `free` which round it is
    of and which share of the layer's filters that round leaves free. A subclass asks `none_free` as
    a round begins, and enters what it freezes into `rounds`."""

    rounds: list[tuple[int, freezing.Masks]] = field(default_factory=list, repr=False, init=False)
    full: bool = field(default=False, repr=False, init=False)  # that none is free was said

    scope = "weights"

    @property
    def masks(self) -> freezing.Masks:
        """What is frozen now: layer -> bool (F,); empty before the first round."""
        return self.rounds[-1][1] if self.rounds else {}

    def none_free(self, context) -> bool:
        """True where a round finds nothing to choose, since all is frozen: it stays so, and that is
        said once."""
        if not self.masks or not all(mask.all() for mask in self.masks.values()):
            return False
        last, masks = self.rounds[-1]
        if not self.full:
            self.full = True
            context.say(
                f"no free filter is left in round {context.round}: all are frozen since round "
                f"{last}, and every round from here on trains the rest alone"
            )
        self.rounds.append((context.round, masks))
        return True

    def during(self, model) -> AbstractContextManager:
        return freezing.frozen(model, self.masks, self.scope)

    def records(self):
        several = len(self.rounds) > 1  # with two tasks there is one round to choose in
        return {
            "masks": [
                {
                    **({"round": number} if several else {}),
                    **mask_row(layer, mask),
                    **({"free": float((~mask).double().mean())} if several else {}),
                }
                for number, masks in self.rounds
                for layer, mask in masks.items()
            ]
        }


@method("freeze")
@dataclass
class Freeze(Hold):
    """Freeze a fraction of each layer's filters, chosen by a ranking made before the round, then
    train the rest (Feenstra & Dow 2023, their method section; no equations are numbered there).

    It departs from the paper where that leaves something open: how classes share a layer's budget
    is `rule` (by turns, so that the fraction is met exactly), what freezing a filter holds is
    `scope` (its weights and bias; heads are free), and any ranking may stand in for the paper's
    MSE of saliency map and filter visualization. Kept between tasks: nothing but which filters are
    frozen, a bit each.

    What was frozen in an earlier round stays frozen, and each round freezes that fraction of all
    filters anew among those still free, so that after 1 / fraction rounds none is left: the limit
    the paper names. A round that finds none free asks for no ranking, and says so once; what is no
    filter's (heads, and batch norm in scope "weights") goes on learning. Over several rounds the
    records say in column `free` which share of a layer's filters each round leaves free.

    ranking: a name in `lib.ranking.RANKINGS`; fraction in [0, 1]; rule: "turns", "union" or
    "network" (see `lib.freezing.RULES`); scope: "weights" or "filter"; draw: which random draw, for
    a ranking that has draws; like: a ranking, of whose choice by the same rule and fraction only
    the count of each layer is taken (see `lib.freezing.as_many`).
    """

    ranking: str
    fraction: float
    rule: str = "turns"
    scope: str = "weights"
    draw: int | None = None
    like: str | None = None

    def __post_init__(self):
        check_number("fraction", self.fraction, high=1, means="filters frozen / filters")
        check_choice("rule", self.rule, tuple(freezing.RULES))
        check_choice("scope", self.scope, freezing.SCOPES)
        check_ranking(self.ranking, self.draw)
        if self.like is not None:
            check_ranking(self.like)

    def fits(self, model, tasks, recipe):
        RANKINGS[self.ranking].fits(model)

    def before(self, model, task, context):
        if self.none_free(context):
            return
        options = {} if self.draw is None else {"draw": self.draw}
        scores = context.scores(self.ranking, **options)
        rule = freezing.RULES[self.rule]
        if self.like is None:
            chosen = rule(scores, self.fraction, self.masks)
        else:
            other = rule(context.scores(self.like), self.fraction, self.masks)
            chosen = freezing.as_many(scores, other, self.masks)
        self.rounds.append((context.round, chosen))


def mask_row(layer: str, mask: Tensor) -> dict:
    """One line of masks.csv."""
    return {
        "layer": layer,
        "filters": len(mask),
        "frozen": int(mask.sum()),
        "fraction": freezing.realised({layer: mask})["all"],
        "mask": freezing.pack(mask),
    }


def frozen_fraction(model: nn.Module, method: Method) -> float:
    """Filters frozen / filters over all convolutions; 0 for a method that freezes none."""
    masks = getattr(method, "masks", {})
    return sum(int(m.sum()) for m in masks.values()) / sum(
        c.out_channels for c in conv_layers(model).values()
    )

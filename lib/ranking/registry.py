"""What a ranking may look at, and how it says what it is.

@ranking("weight norm")
def weight_norm(evidence: Evidence) -> Scores:
    return {layer: ... for layer, conv in conv_layers(evidence.model).items()}    # (1, F)

scores = RANKINGS["weight_norm"](evidence)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import NamedTuple

from torch import Tensor, nn

from lib.data import Task

Scores = dict[str, Tensor]  # layer -> (C, F), higher = freeze first; (1, F) without classes
# beside the network itself, which every one may read
NEEDS = ("images", "maps", "filters", "initial", "trial")


class Trial(NamedTuple):
    """What plain training on the next task makes of the network, known only in hindsight.

    after: its state then, named as in `model.state_dict()`; loss_change: what each parameter's way
    there added to the old task's loss, named as in `model.named_parameters()`, same shapes (see
    `lib.ranking.hindsight.LossChange`)."""

    after: dict[str, Tensor]
    loss_change: dict[str, Tensor]


def _nobody(what: str) -> Callable:
    def fetch():
        raise ValueError(
            f"this evidence has no {what}: expected Evidence(..., fetch_{what}=...), a function "
            "that returns it"
        )

    return fetch


@dataclass
class Evidence:
    """What a ranking may look at. Maps, heat maps, the same of the untrained network, and the trial
    are fetched when first asked for: they cost minutes."""

    model: nn.Module
    task: Task
    seed: int
    fetch_maps: Callable[[], Tensor]  # -> (C, H, W) in [0, 1]
    fetch_heat: Callable[[], dict[str, Tensor]]  # -> layer -> (F, H, W) in [0, 1]
    map_images: int = 100  # most images of a class behind its class map
    fetch_initial: Callable[[], "Evidence"] = _nobody("initial")
    fetch_trial: Callable[[], Trial] = _nobody("trial")

    @cached_property
    def maps(self) -> Tensor:
        """Class maps (C, H, W) in [0, 1]."""
        return self.fetch_maps()

    @cached_property
    def heat(self) -> dict[str, Tensor]:
        """Heat map of every filter's visualization: layer -> (F, H, W) in [0, 1]."""
        return self.fetch_heat()

    @cached_property
    def initial(self) -> "Evidence":
        """The same of the network at its own initialisation, before any task."""
        return self.fetch_initial()

    @cached_property
    def trial(self) -> Trial:
        """What plain training on the next task makes of the network."""
        return self.fetch_trial()


def any_network(model: nn.Module) -> None:
    """What most rankings ask of a network: nothing."""


@dataclass(frozen=True)
class Ranking:
    """A function from Evidence to Scores with what others must know of it.

    label: its name in figures and tables; needs: what it looks at beside the network, so that
    nothing else is made for it and its rows do not depend on how the rest is made: "images" of the
    task, class "maps", "filters" (their heat maps), both of the network's "initial" state, the
    "trial" of the next task; version: raised by hand when its scores change, so that only its own
    rows are made again; fits: called with a network before anything is trained, it raises
    ValueError where the ranking cannot be made of such a one.
    """

    score: Callable[..., Scores]
    label: str
    needs: frozenset[str]
    family: str
    version: int = 1
    fits: Callable[[nn.Module], None] = any_network

    def __call__(self, evidence: Evidence, **options) -> Scores:
        return self.score(evidence, **options)

    @property
    def options(self) -> tuple[str, ...]:
        """What may be asked of it beside the evidence, such as the number of a random draw."""
        return tuple(signature(self.score).parameters)[1:]


class _Rankings(dict):
    """name -> Ranking. A plain function put in by hand is taken to look at images, maps and
    filters."""

    def __setitem__(self, name: str, score: Callable[..., Scores]) -> None:
        if not isinstance(score, Ranking):
            score = Ranking(score, name, frozenset(NEEDS) - {"initial", "trial"}, "own")
        super().__setitem__(name, score)


RANKINGS: dict[str, Ranking] = _Rankings()


def ranking(
    label: str,
    needs: Iterable[str] = (),
    name: str | None = None,
    family: str | None = None,
    version: int = 1,
    fits: Callable[[nn.Module], None] = any_network,
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Enter a function into RANKINGS, under its own name unless another is given.

    family: what figures give one colour; the name of the function's file unless given.
    """
    if unknown := set(needs) - set(NEEDS):
        raise ValueError(f"ranking {label!r} needs {sorted(unknown)}: expected some of {NEEDS}")

    def enter(score: Callable[..., Scores]) -> Callable[..., Scores]:
        of = family or score.__module__.rpartition(".")[2]
        known = Ranking(score, label, frozenset(needs), of, version, fits)
        RANKINGS[name or score.__name__] = known
        return score

    return enter

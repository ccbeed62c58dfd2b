"""Rankings, examined: their scores, which filters they choose, and whether a score predicts what
the network loses without the filter. Made ranking by ranking, so that a ranking added later makes
only rows of its own."""

from collections.abc import Sequence

import numpy as np
import torch

from lib import examination, freezing
from lib.ranking import RANKINGS
from lib.study.arms import SEEN
from lib.study.engine import say
from lib.study.examined.whose import if_examined, judged
from lib.study.keys import SCIENCE, fields, versions
from lib.study.materials import tasks
from lib.study.products import (
    ARRAYS,
    FRACTIONS,
    evidence,
    network_after_task1,
    product,
    task1,
    task1_key,
)
from lib.study.profile import Profile

SHARES = (*FRACTIONS, 0.9)  # of each layer that a ranking chooses, to be compared and put back


# --- scores ---------------------------------------------------------------------------------------


def _looks_at(profile: Profile, name: str) -> Sequence[str]:
    """The products a ranking's scores are made from."""
    return ("task1", *(kind for kind in SEEN if kind in RANKINGS[name].needs))


def ranking_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's scores depend on."""
    ranking = RANKINGS[name]
    key = {
        "task1": task1_key(profile, seed),
        "ranking": name,
        **versions(ranking_version=ranking.version),
    }
    if ranking.needs & {"images", "maps", "filters", "initial"}:
        key["explain"] = fields("explain", profile.explain), SCIENCE["maps"], SCIENCE["filters"]
    if "trial" in ranking.needs:
        key["trial"] = SCIENCE["trial"]
    return key


@product(ranking_key, needs=_looks_at, parts=judged, filetype=ARRAYS)
def scores(profile: Profile, seed: int, name: str) -> dict[str, np.ndarray]:
    """A ranking's scores after task 1: {layer: (C, F) or (1, F)}; empty, after a line that says
    why, where it refuses the network."""
    try:
        found = RANKINGS[name](evidence(profile, seed))
    except ValueError as error:
        say(f"seed {seed}  {name} left out: {error}")
        return {}
    return {layer: s.numpy() for layer, s in found.items()}


# --- do rankings choose the same filters? ---------------------------------------------------------


def choices_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's choices depend on."""
    shares = {"science": SCIENCE["choices"], "shares": list(SHARES)}
    return {**shares, **ranking_key(profile, seed, name)}


@product(choices_key, needs=("scores",), parts=judged, published=True)
def choices(profile: Profile, seed: int, name: str) -> dict:
    """Which filters a ranking chooses, by the default budget rule: {"seed", "lineage", "chosen":
    {share: {layer: `lib.freezing.packed`}}}; no shares where it refuses the network."""
    given = {k: torch.from_numpy(a) for k, a in scores(profile, seed, name).items()}
    masks = {str(share): freezing.allocate(given, share) for share in SHARES} if given else {}
    chosen = {share: freezing.packed(mask) for share, mask in masks.items()}
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "chosen": chosen}


# --- does a score predict damage? -----------------------------------------------------------------


def damages_key(profile: Profile, seed: int) -> dict:
    """What measured damage depends on."""
    return {
        "science": SCIENCE["damages"],
        "task1": task1_key(profile, seed),
        "images": profile.examine.images,
    }


@product(damages_key, needs=("task1",), parts=if_examined, filetype=ARRAYS)
def damages(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """What ablating each filter does to each class's loss, on two halves of the test images:
    {"<layer>/0" and "<layer>/1": float64 (C, F)}."""
    model, task = network_after_task1(profile, seed), tasks(profile, seed)[0]
    halves = examination.damage_in_halves(model, task, profile.examine.images)
    say(f"seed {seed}  damage of ablating each filter")
    return {f"{k}/{h}": s.numpy() for h, half in enumerate(halves) for k, s in half.items()}


def atlas_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's rows of the atlas depend on."""
    return {"damages": damages_key(profile, seed), **ranking_key(profile, seed, name)}


@product(atlas_key, needs=("scores", "damages"), parts=judged, published=True)
def atlas(profile: Profile, seed: int, name: str) -> dict:
    """How well a ranking predicts damage: {"seed", "lineage", "rows": {layer, spearman, ceiling}};
    no rows where it refuses the network."""
    given, found = scores(profile, seed, name), damages(profile, seed)
    halves = tuple({k: found[f"{k}/{h}"] for k in given} for h in (0, 1))
    rows = examination.predicts_damage(given, halves)
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}

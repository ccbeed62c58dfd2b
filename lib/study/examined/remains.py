"""What is left of task 1 after round 2, and where; and what any ranking's choice would have kept,
put back without training. Rows keep no weights, so networks are trained again."""

from collections.abc import Sequence

import torch
from torch import nn

from lib import examination, freezing
from lib.methods import Freeze
from lib.network import conv_layers
from lib.ranking import RANKINGS
from lib.study.arms import needs
from lib.study.examined.rankings import SHARES, ranking_key, scores
from lib.study.examined.whose import examined_seeds, if_examined, judged
from lib.study.keys import SCIENCE, versions
from lib.study.materials import epochs, tasks
from lib.study.products import (
    CHECKPOINT,
    evidence,
    network_after_task1,
    product,
    task1,
    task1_key,
)
from lib.study.profile import Profile
from lib.study.runs import arm_named, run_key, trained
from lib.training import fit

WAYS = ("fine-tune", "all frozen")  # of going through round 2, told apart by what is left


def retrained_key(profile: Profile, seed: int) -> dict:
    """What the two networks after round 2 depend on (the recipe is in task 1's key)."""
    key = {"science": SCIENCE["retrained"], "task1": task1_key(profile, seed)}
    return {**key, **versions(freeze=Freeze.version)}


@product(retrained_key, needs=("task1",), parts=if_examined, filetype=CHECKPOINT)
def retrained(profile: Profile, seed: int) -> dict:
    """The network's state after the last round, by fine-tuning and with the weights of all
    convolutions frozen, as the arms of these names: {way: state}. Rows keep no weights, so it is
    trained again."""
    split, found = tasks(profile, seed), {}
    for way in WAYS:
        model, method = network_after_task1(profile, seed), None
        if way == "all frozen":
            method = Freeze("random", 1.0)
            masks = {
                k: torch.ones(c.out_channels, dtype=bool) for k, c in conv_layers(model).items()
            }
        for number, task in enumerate(split[1:], 2):
            if method:
                method.rounds.append((number, masks))
            report = epochs(f"seed {seed}  {way}, again")
            fit(model, task, profile.recipe, method, seed, (), report)
        found[way] = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    return found


def _network(profile: Profile, seed: int, state: dict) -> nn.Module:
    model = network_after_task1(profile, seed)
    model.load_state_dict(state)
    return model


@product(retrained_key, needs=("task1", "retrained"), parts=if_examined, published=True)
def readouts(profile: Profile, seed: int) -> dict:
    """{"seed", "lineage", "rows": {way, readout, acc1}}: what is left of task 1 and where, before
    round 2 and after it; see `lib.examination.readouts`."""
    task, precision = tasks(profile, seed)[0], profile.recipe.precision
    before, rows = task1(profile, seed)["model"], []
    for way, state in {"before": before, **retrained(profile, seed)}.items():
        found = examination.readouts(_network(profile, seed, state), before, task, precision)
        rows += [{"way": way, "readout": name, "acc1": acc1} for name, acc1 in found.items()]
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


def _asked_what_is_left(profile: Profile, seed: int) -> Sequence[str]:
    """Arms beside WAYS that `examine.arms` names."""
    asked = profile.examine.arms
    return [
        arm.name
        for arm in profile.arms
        if seed in examined_seeds(profile)
        and (asked == "all" or arm.name in asked)
        and arm.from_checkpoint
        and arm.asked_for(seed)
        and arm.name not in WAYS
    ]


def left_key(profile: Profile, seed: int, name: str) -> dict:
    """What is left after an arm depends on what its run depends on."""
    return {"science": SCIENCE["retrained"], "run": run_key(profile, seed, name)}


@product(
    left_key,
    needs=lambda profile, name: needs(arm_named(profile, name)),
    parts=_asked_what_is_left,
    published=True,
)
def left(profile: Profile, seed: int, name: str) -> dict:
    """`readouts` after an arm. Its row holds no weights, so it is trained again."""
    model, before = network_after_task1(profile, seed), task1(profile, seed)
    method, _ = trained(arm_named(profile, name), seed, profile, model, ", again")
    with method.view(model, 1):
        found = examination.readouts(
            model, before["model"], tasks(profile, seed)[0], profile.recipe.precision
        )
    rows = [{"way": name, "readout": readout, "acc1": acc1} for readout, acc1 in found.items()]
    return {"seed": seed, "lineage": before["lineage"], "rows": rows}


def grafts_key(profile: Profile, seed: int, name: str) -> dict:
    """What a ranking's grafts depend on."""
    key = {**retrained_key(profile, seed), **ranking_key(profile, seed, name)}
    key["shares"] = list(SHARES)
    return {**key, "masks": profile.examine.masks} if name == "random" else key


@product(grafts_key, needs=("scores", "retrained"), parts=judged, published=True)
def grafts(profile: Profile, seed: int, name: str) -> dict:
    """{"seed", "lineage", "rows": {fraction, draw, acc1, acc2, ...}}: a ranking's choices, by the
    default budget rule, put back into the fine-tuned network. Of the random ranking, many draws."""
    split, precision = tasks(profile, seed), profile.recipe.precision
    tuned, before = retrained(profile, seed)["fine-tune"], task1(profile, seed)["model"]
    model, rows = _network(profile, seed, tuned), []
    for draw in range(profile.examine.masks) if name == "random" else (None,):
        for fraction in SHARES:
            masks = _chosen(profile, seed, name, fraction, draw)
            if masks:
                found = examination.judge(model, before, split, masks, precision=precision)
                rows.append({"fraction": fraction, "draw": draw, **found})
    return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "rows": rows}


def _chosen(profile: Profile, seed: int, name: str, fraction: float, draw: int | None):
    """A ranking's mask; draw: of the random ranking."""
    if draw is None:
        given = {k: torch.from_numpy(a) for k, a in scores(profile, seed, name).items()}
    else:
        given = RANKINGS[name](evidence(profile, seed), draw=draw)
    return freezing.allocate(given, fraction)

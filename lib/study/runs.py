"""An arm of a seed, from checkpoint to rows.

rows = run(profile, seed, "MSE 50 %")  # {"row": {...}, "accuracy": [...], ...}, made once
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from lib.curricula import CURRICULA
from lib.data import Task
from lib.evaluation import evaluate, measure
from lib.methods import METHODS, Context, Method, frozen_fraction
from lib.ranking import RANKINGS
from lib.study.arms import identity, needs
from lib.study.engine import say
from lib.study.keys import SCIENCE
from lib.study.materials import (
    data_checksum,
    data_label,
    epochs,
    fresh_network,
    outputs_of,
    reproducibly,
    tasks,
)
from lib.study.products import (
    PRODUCTS,
    Product,
    evidence,
    later_evidence,
    network_after_task1,
    store,
    task1,
    task1_key,
)
from lib.study.profile import Arm, Profile
from lib.training import fit

NO_LINEAGE = "scratch"  # arms that start from no checkpoint


def arm_named(profile: Profile, name: str) -> Arm:
    """The profile's arm of that name."""
    return next(arm for arm in profile.arms if arm.name == name)


def run_key(profile: Profile, seed: int, name: str) -> dict:
    """What a run depends on, except the lineage of its checkpoint and the arm's name."""
    arm = arm_named(profile, name)
    return {
        "science": SCIENCE["run"],
        **identity(arm, profile),
        "seed": seed,
        "task1": task1_key(profile, seed),
    }


def run(profile: Profile, seed: int, name: str, again: bool = False) -> dict:
    """The arm's rows, made once: {"row": one line of runs.csv, "accuracy": [...], and what the
    method records}.

    If the row is there under any lineage it is read, without a checkpoint; `again` insists on this
    checkpoint's.
    """
    shelf, key, arm = store(profile), run_key(profile, seed, name), arm_named(profile, name)
    if not arm.from_checkpoint:
        make = partial(_from_scratch, arm, seed, profile)
        return shelf.once("run", key, make, branch=NO_LINEAGE)
    have = shelf.branches("run", key)
    if have and not again:
        return shelf.once("run", key, dict, branch=have[0])
    lineage = task1(profile, seed)["lineage"]
    make = partial(sequence, arm, seed, profile, lineage)
    return shelf.once("run", key, make, branch=lineage)


def _asked_for(profile: Profile, seed: int) -> Sequence[str]:
    return [arm.name for arm in profile.arms if arm.asked_for(seed)]


PRODUCTS["run"] = Product(
    "run",
    run_key,
    needs=lambda profile, name: needs(arm_named(profile, name)),
    parts=_asked_for,
    published=True,
    branched=True,
    get=run,
)


def sequence(arm: Arm, seed: int, profile: Profile, lineage: str) -> dict:
    """Round 2 and later rounds from the task-1 checkpoint, by the arm's method; made anew."""
    with reproducibly():
        split, model = tasks(profile, seed), network_after_task1(profile, seed)
        precision = profile.recipe.precision
        before = {f"acc{k}_before": evaluate(model, t, precision) for k, t in enumerate(split, 1)}
        before["loss1_before"] = measure(model, split[0], precision)["loss"]
        try:
            method, accuracy = trained(arm, seed, profile, model)
        except ValueError as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from error
        realised = frozen_fraction(model, method)
        row = _row(profile, arm, seed, lineage, model, split, method, realised=realised, **before)
        return {"row": row, "accuracy": accuracy, **method.records()}


def trained(
    arm: Arm, seed: int, profile: Profile, model: nn.Module, again: str = ""
) -> tuple[Method, list[dict]]:
    """Train the network after task 1 through round 2 and later ones, in place: the method as it is
    then, and accuracies by round and epoch. again: a word for the log, of a run made once more."""
    split, precision = tasks(profile, seed), profile.recipe.precision
    method, name, accuracy = METHODS[arm.method](**arm.options), f"{arm.name}{again}", []
    context = Context(
        split,
        seed,
        profile.recipe,
        scores=lambda *_: {},
        accuracies=lambda m: {t.name: evaluate(m, t, precision) for t in split},
        path=lambda: task1(profile, seed)["path"],
        initial=lambda: dict(fresh_network(profile, seed, outputs_of(split)).named_parameters()),
        say=lambda line: say(f"seed {seed}  {name}  {line}"),
    )
    for number, task in enumerate(split[1:], 2):
        now = replace(context, round=number, scores=_scores(profile, seed, model, number))
        method.before(model, task, now)
        label = f"seed {seed}  {name}" + (f"  round {number}" if len(split) > 2 else "")
        history = fit(model, task, profile.recipe, method, seed, split, epochs(label))
        rows = [{"round": number, **row} for row in history.accuracy]
        method.after(model, task, now)
        if type(method).after is not Method.after and number < len(split):
            # what the round leaves behind, where the method still changes it (merging)
            last = rows[-1]["epoch"]
            left = {t.name: evaluate(model, t, precision) for t in split}
            rows = [_at_the_end(row, last, left) for row in rows]
        accuracy += rows
    return method, accuracy


def _at_the_end(row: dict, last: int, left: dict[str, float]) -> dict:
    """A row of accuracies with what is left after the last epoch."""
    return {**row, "accuracy": left[row["task"]]} if row["epoch"] == last else row


def _scores(profile: Profile, seed: int, model: nn.Module, number: int):
    """scores(ranking, **options) for a round: of the network as it enters it."""

    def scores(ranking: str, **options) -> dict[str, torch.Tensor]:
        if number == 2:  # what all arms of the seed share; a network of its own, to look at
            look = evidence(profile, seed, network_after_task1(profile, seed))
        else:
            look = later_evidence(profile, seed, model, number)
        return RANKINGS[ranking](look, **options)

    return scores


def _from_scratch(arm: Arm, seed: int, profile: Profile) -> dict:
    """Upper and lower targets that start from the network's initialisation (see
    `lib.curricula`)."""
    with reproducibly():
        plan = CURRICULA[arm.curriculum].plan(tasks(profile, seed))
        recipe = replace(profile.recipe, epochs=profile.recipe.epochs * plan.rounds)
        model = fresh_network(profile, seed, outputs_of([plan.task, *plan.scored]))
        report = epochs(f"seed {seed}  {arm.name}")
        history = fit(model, plan.task, recipe, None, seed, plan.watch, report)
        row = _row(profile, arm, seed, NO_LINEAGE, model, plan.scored, Method(), realised=0.0)
        return {"row": row, "accuracy": [{"round": 0, **r} for r in history.accuracy]}


def _row(
    profile: Profile,
    arm: Arm,
    seed: int,
    lineage: str,
    model: nn.Module,
    split: Sequence[Task],
    method: Method,
    **more,
) -> dict:
    """One line of runs.csv; more: its last columns."""
    precision, after = profile.recipe.precision, []
    for k, task in enumerate(split, 1):
        with method.view(model, k):
            after.append(measure(model, task, precision))
    with method.view(model, 1):
        train = measure(model, split[0], precision, "train")
    return {
        "data": data_label(profile),
        "data_checksum": data_checksum(profile, seed),
        "seed": seed,
        "lineage": lineage,
        "method": arm.method,
        "curriculum": arm.curriculum,
        "ranking": arm.options.get("ranking"),
        "fraction": arm.options.get("fraction"),
        "precision": precision,
        **{f"acc{k}": found["accuracy"] for k, found in enumerate(after, 1)},
        "loss1": after[0]["loss"],
        "acc1_train": train["accuracy"],
        **more,
    }
